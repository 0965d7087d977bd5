"""Decides from candidate lists, by the operating point of a collection's policy."""
