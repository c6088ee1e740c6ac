"""Object storage behind one protocol: one module a URL scheme."""
