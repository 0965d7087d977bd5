"""Identification (1:N) and verification (1:1): both only read."""
