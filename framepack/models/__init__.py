"""Checkpoints in, modules out: the packed transformer, the encoders, the section codec."""
