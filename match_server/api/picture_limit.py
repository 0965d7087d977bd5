"""A limit to the requests with a picture that are handled at once: fewer than there are threads."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import BaseModel

from match_server.schemas.base import PictureRequest
from shared.errors import Unavailable


class PictureLimit:
    """Admits `max_pictures` requests with a picture at once in this process, and refuses others.

    The models analyze a picture for each core, some tens a second; a vector takes a fiftieth of
    that. Pictures that wait hold a thread each. Without the limit they would hold all threads, and
    probes and searches by vector would wait behind them for seconds.
    """

    def __init__(self, max_pictures: int) -> None:
        self._max_pictures = max_pictures
        self._free = threading.BoundedSemaphore(max_pictures)

    @contextmanager
    def admit(self, body: BaseModel | None) -> Iterator[None]:
        """Count a request while it is handled. Raises Unavailable for a picture too many."""
        if not (isinstance(body, PictureRequest) and body.has_picture):
            yield
            return
        if not self._free.acquire(blocking=False):
            raise Unavailable(
                f"{self._max_pictures} pictures are being analyzed or wait already; send it again "
                "soon"
            )
        try:
            yield
        finally:
            self._free.release()
