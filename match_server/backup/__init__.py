"""A whole server in one file: written by `match-server export`, read by `match-server import`."""
