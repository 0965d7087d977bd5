"""The server's gallery: the engine of `shared.gallery`, which the boxes use as well."""

from shared.gallery import Candidates, Gallery, SegmentedGallery, SharedGallery, open_gallery

__all__ = ["Candidates", "Gallery", "SegmentedGallery", "SharedGallery", "open_gallery"]
