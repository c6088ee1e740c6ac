"""Telling receivers of what happened to jobs: messages, a guarded way out, and who sends them."""
