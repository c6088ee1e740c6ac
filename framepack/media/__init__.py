"""Pixels at the edge: size buckets, images in, video clips out."""
