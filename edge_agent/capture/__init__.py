"""Reads frames from cameras, films and pictures."""
