"""What is measured and how: `python -m bench NAME ...` runs `bench.NAME.main`."""
