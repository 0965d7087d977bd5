"""Attacks: seeded, bounded for a few seconds in the tests, longer by `./dev bench attack`."""
