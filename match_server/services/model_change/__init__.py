"""Changing the face models of a collection."""
