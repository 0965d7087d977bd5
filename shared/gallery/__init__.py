"""The gallery engine: exact 1:N search over the templates of one collection."""

from pathlib import Path

from shared.gallery.api import Candidates, Gallery
from shared.gallery.codebook import CodeBook
from shared.gallery.disk_index import SharedGallery
from shared.gallery.kernels import best_kernel, usable_processors
from shared.gallery.manifest import Directory
from shared.gallery.memory_index import MissingChanges, SegmentedGallery
from shared.gallery.scan import Kernel

__all__ = [
    "Candidates",
    "Gallery",
    "MissingChanges",
    "SegmentedGallery",
    "SharedGallery",
    "open_gallery",
]

_MOST_THREADS = 8  # a scan waits for memory, and a few threads take all that there is


def open_gallery(
    directory: Path | None,
    dimension: int,
    *,
    origin: str = "",
    threads: int | None = None,
    kernel: Kernel | None = None,
    verify: bool = True,
) -> SegmentedGallery:
    """The default gallery for rows of `dimension` values; with no directory, in memory only.

    `origin` names what the directory belongs to (a collection of a database): segments of another
    count as damaged. `threads` scan together (default: the processors that this process may use).
    `verify` reads all segments in the background and compares their digests.
    """
    book = CodeBook(dimension)
    kernel = kernel or best_kernel()
    threads = threads or min(usable_processors(), _MOST_THREADS)
    if directory is None:
        return SegmentedGallery(book, kernel, threads)
    return SharedGallery(Directory(directory, book, origin), book, kernel, threads, verify=verify)
