"""Limits how many pictures are decoded at the same time, which bounds memory."""

import threading
from pathlib import Path
from types import TracebackType

from shared.malloc_trim import find_trim

_STATM = Path("/proc/self/statm")  # its second number: resident pages
_GROWN_PAGES = 16_384  # 64 MiB


class DecodeLimit:
    """A context manager that at most `places` threads enter at a time; the others wait.

    25 megapixels take about 0.3 GiB from the JPEG to the templates, and glibc keeps freed memory
    for the thread that used it: sixteen uploads at once held 2.8 GiB long after their responses.
    So each exit returns freed pages to the system, if the process has grown since the last return.
    """

    def __init__(self, places: int) -> None:
        self._places = threading.BoundedSemaphore(places)
        self._trim = find_trim()
        self._pages = _resident_pages()

    def __enter__(self) -> None:
        self._places.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._places.release()
        if _resident_pages() - self._pages > _GROWN_PAGES:
            self._trim()
            self._pages = _resident_pages()


def _resident_pages() -> int:
    """0 where the system does not report it."""
    try:
        return int(_STATM.read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
