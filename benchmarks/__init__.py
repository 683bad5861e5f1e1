"""Benchmarks: `make bench-*` prints a table and writes one JSON of ratios under benchmarks/results."""
