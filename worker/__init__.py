"""Warm workers: one process serves one lane of all jobs, with its models resident."""
