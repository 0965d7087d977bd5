"""Cameras, films and pictures: from what a setting names to frames."""
