"""Opens a gallery in a process of its own and prints: seconds to the first answer, bytes that are
private, and bytes of its files that are in memory after searches that began with none: all but the
rows, and rows."""

import ctypes
import mmap
import os
import sys
import time
from pathlib import Path

import numpy as np

from shared.gallery import MemoryIndex, open_gallery
from tests.benchmarks.gallery.people import DIMENSION

_SEARCHES = 100


def _private() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


def _in_memory(path: Path) -> np.ndarray:
    """For each page of a file whether it is in memory."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as whole:
        held = (ctypes.c_ubyte * -(-len(whole) // mmap.PAGESIZE))()
        first = ctypes.c_char.from_buffer(whole)
        libc = ctypes.CDLL(None, use_errno=True)
        failed = libc.mincore(
            ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(len(whole)), held
        )
        del first
    return np.zeros(0, dtype=bool) if failed else np.frombuffer(held, dtype=np.uint8) & 1 == 1


def _evict(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


def _opened(directory: Path, probes: np.ndarray) -> MemoryIndex:
    gallery = open_gallery(directory, DIMENSION)
    gallery.search(probes[:1], 10)
    return gallery


def main(folder: Path) -> None:
    directory, probes = folder / "gallery", np.load(folder / "probes.npy")
    segments = list(directory.glob("*.segment"))
    open_gallery(None, DIMENSION).search(probes[:1], 1)  # libraries and code are loaded
    for segment in segments:
        segment.read_bytes()
    started = time.perf_counter()
    gallery = _opened(directory, probes)
    first = time.perf_counter() - started
    del gallery
    for segment in segments:
        _evict(segment)
    before = _private()
    gallery = _opened(directory, probes)
    for probe in probes[:_SEARCHES]:
        gallery.search(probe[None], 10)
    private = max(0, _private() - before)
    codes = rows = 0
    for segment in segments:
        held = _in_memory(segment)
        size = next(v for v in gallery._views if v.segment.name == segment.name).segment.rows.nbytes
        pages = -(-size // mmap.PAGESIZE)
        codes += int(held[:-pages].sum()) * mmap.PAGESIZE
        rows += int(held[-pages:].sum()) * mmap.PAGESIZE
    print(first, private, codes, rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
