"""Memory that was freed goes back to the system: a small box has other uses for it."""

import ctypes
from collections.abc import Callable


def find_trim() -> Callable[[], None]:
    """What gives freed pages back; does nothing where the C library is not glibc.

    A batch of embeddings needs tens of MiB for some milliseconds, and glibc keeps what it was given
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
