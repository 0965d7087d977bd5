"""The gallery engine: exact 1:N search over the templates of one collection."""

from pathlib import Path

from match_server.gallery.contract import Candidates, Gallery
from match_server.gallery.exact import ExactGallery

__all__ = ["Candidates", "Gallery", "open_gallery"]


def open_gallery(directory: Path | None, dimension: int) -> Gallery:
    """The default gallery for rows of `dimension`; with no directory, in memory only."""
    return ExactGallery(dimension)
