"""Random faults against the whole service, and a checker that recounts what came of them."""
