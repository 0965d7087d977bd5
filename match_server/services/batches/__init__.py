"""Enrolling many pictures or templates: from a request, a folder or a file."""
