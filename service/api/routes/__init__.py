"""One module a resource; each defines `router`."""
