"""Measurements of generated videos against the procedural world's truth."""
