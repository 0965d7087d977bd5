"""Tools that are not installed with Muster."""
