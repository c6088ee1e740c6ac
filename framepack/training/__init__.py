"""Training: the codec, then the packed transformer, from a configuration file."""
