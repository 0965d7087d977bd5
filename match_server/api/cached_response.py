"""A response that stays the same as long as the process runs."""

import threading
from collections.abc import Callable

from flask import Response, request


class CachedResponse:
    """Makes the response at the first call; a client that has it already gets 304 without a body.

    It is for calls without a key. A response that takes long to make would else let anybody stop
    the server with a few requests a second.
    """

    def __init__(self, make: Callable[[], Response]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: tuple[bytes, str, str] | None = None  # data, content type, ETag

    def __call__(self) -> Response:
        with self._lock:
            if self._made is None:
                complete = self._make()
                complete.add_etag()
                etag, _ = complete.get_etag()
                self._made = complete.get_data(), complete.content_type or "", etag or ""
        data, content_type, etag = self._made
        response = Response(data, content_type=content_type)
        response.set_etag(etag)
        response.headers["Cache-Control"] = "no-cache"  # clients ask each time if it is the same
        response.make_conditional(request)
        return response
