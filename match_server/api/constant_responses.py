"""Answers that are the same as long as the process runs."""

import threading
from collections.abc import Callable

from flask import Response, request


class ConstantAnswer:
    """Made at the first call, and then only sent; a client that has it already is told so (304).

    What takes long to make and needs no key would else stop the server at a few calls a second.
    """

    def __init__(self, make: Callable[[], Response]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: tuple[bytes, str, str] | None = None  # data, content type, ETag

    def __call__(self) -> Response:
        with self._lock:
            if self._made is None:
                whole = self._make()
                whole.add_etag()
                etag, _ = whole.get_etag()
                self._made = whole.get_data(), whole.content_type or "", etag or ""
        data, kind, etag = self._made
        response = Response(data, content_type=kind)
        response.set_etag(etag)
        response.headers["Cache-Control"] = "no-cache"  # it asks each time whether it is the same
        response.make_conditional(request)
        return response
