"""The whole service on this machine, with embedded parts: for development, demos, small hosts."""
