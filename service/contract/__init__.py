"""What gateway, workers and clients agree on. No FastAPI, no torch."""
