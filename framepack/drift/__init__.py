"""What keeps a long video from drifting by changing the history a model sees."""
