"""Network cameras that give JPEG after JPEG over HTTP (multipart/x-mixed-replace, RFC 2046).

Of the pictures that have come, only the newest is decoded: a camera that is faster than this
machine costs no growing delay.
"""

import re
import select
import time
from http.client import HTTPException
from typing import Any, Final

import requests
import urllib3

from edge_agent.capture.jpeg_decoding import decode_jpeg
from models.types import BgrImage
from shared.errors import SourceError

MAX_JPEG_BYTES: Final = 16 * 1024 * 1024  # no camera's JPEG is larger
_READ_BYTES: Final = 65_536
_MAX_HEADERS: Final = 16 * 1024
_KEPT: Final = 1024  # bytes in which a delimiter may have begun
_AT_ONCE: Final = 32  # pictures that are passed over in one go, at most
_LENGTH: Final = re.compile(rb"^content-length:\s*(\d+)", re.IGNORECASE | re.MULTILINE)
_HEADERS_END: Final = re.compile(rb"\r?\n\r?\n")
_DELIMITER: Final = re.compile(
    rb"(?:^|\n)([^\s:]{1,200})[ \t]*\r?\n(?=Content-[a-z]+[ \t]*:)", re.IGNORECASE
)


class MjpegStream:
    """An open stream of JPEG pictures; stream time is the monotonic clock.

    `name` is the address as it may be logged, `boundary` the announced one, without dashes.
    """

    live, stills = True, False

    def __init__(
        self, name: str, response: requests.Response, boundary: bytes, stall_s: float
    ) -> None:
        self._name = name
        self._response = response
        self._stall_s = stall_s
        self._parts = _Parts(boundary)
        self._jpeg = b""
        _limit_silence(response, stall_s)

    def grab(self) -> float:
        try:
            self._jpeg = self._newest()
        except ValueError as error:
            raise SourceError(f"{self._name}: {error}", source=self._name) from error
        return time.monotonic()

    def retrieve(self) -> BgrImage:
        return decode_jpeg(self._jpeg)

    def close(self) -> None:
        self._response.close()

    def _newest(self) -> bytes:
        """The newest picture that has come whole, waiting for one if there is none."""
        jpeg: bytes | None = None
        began_s = time.monotonic()
        for _ in range(_AT_ONCE):
            following = self._parts.next()
            while following is None:
                late = time.monotonic() - began_s > self._stall_s
                if jpeg is not None and (late or not self._more_has_come()):
                    return jpeg
                if late:  # a camera that drips has stalled too
                    raise SourceError(
                        f"{self._name} gives no whole picture in {self._stall_s:g} s",
                        source=self._name,
                    )
                data = self._receive()
                if not data and jpeg is not None:
                    return jpeg  # the next call will find that it was the last
                if not data:
                    raise SourceError(f"{self._name} gives no pictures any more", source=self._name)
                self._parts.feed(data)
                following = self._parts.next()
            jpeg = following
        return jpeg or b""

    def _receive(self) -> bytes:
        """What has come, waiting for it; nothing at the end."""
        try:
            data: bytes = self._response.raw.read1(_READ_BYTES)
            return data
        except (OSError, HTTPException, urllib3.exceptions.HTTPError) as error:  # or a timeout
            raise SourceError(f"{self._name} gives nothing any more", source=self._name) from error

    def _more_has_come(self) -> bool:
        poll = select.poll()  # not select(), which knows no descriptor beyond 1023
        poll.register(self._response.raw.fileno(), select.POLLIN)
        return bool(poll.poll(0))


class _Parts:
    """Takes a stream of bytes apart, as cameras really write it: with lengths or without.

    Where another delimiter is used than was announced, the one that is used counts.
    """

    def __init__(self, boundary: bytes) -> None:
        self._mark = b"--" + boundary
        self._announced = bool(boundary)
        self._buffer = bytearray()
        self._between = 0  # bytes since the last picture that belong to none

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> bytes | None:
        """The next whole picture; None until more bytes were fed. ValueError for what is none."""
        start = self._buffer.find(self._mark) if self._announced else -1
        if start < 0:
            used = _DELIMITER.search(self._buffer)
            if used is not None:
                self._mark, self._announced = used[1], True
                start = used.start(1)
        if start < 0:
            idle = max(0, len(self._buffer) - _KEPT)  # the rest may hold half a delimiter
            del self._buffer[:idle]
            self._between += idle
            if self._between > MAX_JPEG_BYTES:
                raise ValueError("what it gives are not the pictures that it promised")
            return None
        self._between = 0
        headers = _HEADERS_END.search(self._buffer, start)
        if headers is None:
            if len(self._buffer) - start > _MAX_HEADERS:
                raise ValueError("a picture's headers have no end")
            return None
        said = _LENGTH.search(self._buffer, start, headers.start() + 2)
        if said is not None:
            end = headers.end() + int(said[1])
            if int(said[1]) > MAX_JPEG_BYTES:
                raise ValueError(f"a picture of {int(said[1])} bytes is too large")
            whole = len(self._buffer) >= end
        else:
            end = self._buffer.find(self._mark, headers.end())
            if len(self._buffer) - start > MAX_JPEG_BYTES:
                raise ValueError("a picture has no end")
            whole = end >= 0
        if not whole:
            return None
        jpeg = bytes(self._buffer[headers.end() : end])
        del self._buffer[:end]
        return jpeg


def _limit_silence(response: requests.Response, stall_s: float) -> None:
    """Opening may take longer than a camera may then be silent."""
    # There is no public way to the socket behind a response; without one, opening's limit stays.
    body = getattr(getattr(response.raw, "_fp", None), "fp", None)
    sock: Any = getattr(getattr(body, "raw", None), "_sock", None)
    if sock is not None:
        sock.settimeout(stall_s)
