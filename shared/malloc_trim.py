"""Returns freed memory to the system, and reads how much memory there is."""

import ctypes
import os
from collections.abc import Callable
from pathlib import Path


def find_trim() -> Callable[[], None]:
    """Returns a function that gives freed pages back; it does nothing without glibc.

    A batch of embeddings needs tens of MiB for some milliseconds, and glibc keeps them
    (measured on a crowded 720p film: up to 219 MiB resident, with this 165 to 195). Lower malloc
    thresholds would save more, but cost a third of the frame rate: every frame's buffers would be
    fresh pages.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return lambda: None
    trim.argtypes = [ctypes.c_size_t]
    return lambda: trim(0)


def memory_limit_bytes(root: Path = Path("/")) -> int:
    """Returns the memory limit of this process's control group (systemd's MemoryMax), else all."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    top = root / "sys/fs/cgroup"
    group = _text(root / "proc/self/cgroup").strip().rpartition("::/")[2]
    for folder in (top / group, *(top / group).parents):  # the tightest limit on the way up holds
        limit = _text(folder / "memory.max").strip()
        if limit.isdecimal():
            limits.append(int(limit))
        if folder == top:
            break
    return min(limits)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
