"""Benchmarks: each prints a table with the machine's facts. Run by `./dev bench`."""
