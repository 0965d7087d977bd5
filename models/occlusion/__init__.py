"""Measures how much of a face is covered, and which parts, with a small network of our own."""
