"""Benchmarks that need the test extra; `make bench` runs them."""
