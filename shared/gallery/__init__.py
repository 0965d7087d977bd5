"""The gallery engine: exact 1:N search over the templates of one collection."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.gallery.candidates import Candidates
from shared.gallery.codebook import CodeBook
from shared.gallery.disk_index import DiskIndex
from shared.gallery.kernels import best_kernel, usable_processors
from shared.gallery.manifest import GalleryDirectory
from shared.gallery.memory_index import MemoryIndex, MissingChanges
from shared.gallery.scan import Kernel
from shared.gallery.segment import content_of
from shared.wire.template_hash import Hashes

__all__ = [
    "Candidates",
    "DiskIndex",
    "MemoryIndex",
    "MissingChanges",
    "open_gallery",
    "stored_content",
]

_MAX_THREADS = 8  # a few threads use all of the memory's bandwidth


def stored_content(
    directory: Path, dimension: int, origin: str
) -> tuple[tuple[str, int], NDArray[np.uint64], Hashes] | None:
    """Epoch and watermark of a gallery's files, and the ids and hashes of their templates.

    Reads only; None if there are no files. Raises DamagedSegments.
    """
    generation = GalleryDirectory(directory, CodeBook(dimension), origin).read()
    if generation is None:
        return None
    return ((generation.epoch, generation.seq), *content_of(generation.views))


def open_gallery(
    directory: Path | None,
    dimension: int,
    *,
    origin: str = "",
    threads: int | None = None,
    kernel: Kernel | None = None,
) -> MemoryIndex:
    """Opens a gallery for rows of `dimension` values; without a directory, in memory only.

    `origin` identifies the collection that the directory belongs to: segments with another origin
    count as damaged. `threads` is the number of threads of a scan; by default the processors that
    this process may use.
    """
    book = CodeBook(dimension)
    kernel = kernel or best_kernel()
    threads = threads or min(usable_processors(), _MAX_THREADS)
    if directory is None:
        return MemoryIndex(book, kernel, threads)
    return DiskIndex(GalleryDirectory(directory, book, origin), book, kernel, threads)
