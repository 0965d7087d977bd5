"""How many requests with a picture are answered at once: not as many as there are threads."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import BaseModel

from match_server.schemas.persons import Enrollment
from match_server.schemas.search import DetectRequest, SearchForm, VerifyRequest
from shared.errors import Unavailable


class PictureTurns:
    """Lets `most` pictures of one worker in, and tells the others to come again.

    The models look at one picture after the other, some tens a second; a vector takes a fiftieth of
    that. Pictures that wait hold a thread each, and once they held all, probes and searches by
    vector stood behind them for seconds.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._places = threading.BoundedSemaphore(most)

    @contextmanager
    def turn(self, body: BaseModel | None) -> Iterator[None]:
        """For the time of an answer to `body`. Raises Unavailable for a picture too many."""
        if not _has_picture(body):
            yield
            return
        if not self._places.acquire(blocking=False):
            raise Unavailable(
                f"{self._most} pictures are being looked at or wait already; send it again soon"
            )
        try:
            yield
        finally:
            self._places.release()


def _has_picture(body: BaseModel | None) -> bool:
    if isinstance(body, VerifyRequest):
        return any(side.image is not None for side in body.pair)
    if isinstance(body, SearchForm | Enrollment):
        return body.image is not None
    return isinstance(body, DetectRequest)
