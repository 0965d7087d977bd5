"""Reads MJPEG streams over HTTP (multipart/x-mixed-replace, RFC 2046).

Only the newest received picture is decoded, so that a camera that is faster than this machine
causes no growing delay.
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
_KEPT: Final = 1024  # bytes that may hold the beginning of a delimiter
_AT_ONCE: Final = 32  # pictures that are skipped at a time, at most
_LENGTH: Final = re.compile(rb"^content-length:\s*(\d+)", re.IGNORECASE | re.MULTILINE)
_HEADERS_END: Final = re.compile(rb"\r?\n\r?\n")
_DELIMITER: Final = re.compile(
    rb"(?:^|\n)([^\s:]{1,200})[ \t]*\r?\n(?=Content-[a-z]+[ \t]*:)", re.IGNORECASE
)


class MjpegStream:
    """An open stream of JPEG pictures; stream time is the monotonic clock.

    `name` is the address without secrets; `boundary` is the announced one, without dashes.
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
        """The newest complete picture. It waits where there is none."""
        jpeg: bytes | None = None
        began_s = time.monotonic()
        for _ in range(_AT_ONCE):
            following = self._parts.next()
            while following is None:
                late = time.monotonic() - began_s > self._stall_s
                if jpeg is not None and (late or not self._has_more_data()):
                    return jpeg
                if late:  # a camera that sends too slowly has stalled
                    raise SourceError(
                        f"{self._name} gives no whole picture in {self._stall_s:g} s",
                        source=self._name,
                    )
                data = self._receive()
                if not data and jpeg is not None:
                    return jpeg  # the next call notices the end
                if not data:
                    raise SourceError(f"{self._name} gives no pictures any more", source=self._name)
                self._parts.feed(data)
                following = self._parts.next()
            jpeg = following
        return jpeg or b""

    def _receive(self) -> bytes:
        """Waits for data and returns it; empty at the end."""
        try:
            data: bytes = self._response.raw.read1(_READ_BYTES)
            return data
        except (OSError, HTTPException, urllib3.exceptions.HTTPError) as error:  # timeouts included
            raise SourceError(f"{self._name} gives nothing any more", source=self._name) from error

    def _has_more_data(self) -> bool:
        poll = select.poll()  # not select(), which knows no descriptor beyond 1023
        poll.register(self._response.raw.fileno(), select.POLLIN)
        return bool(poll.poll(0))


class _Parts:
    """Splits a stream of bytes into pictures, with or without content lengths.

    Where a camera uses another delimiter than it announced, the used one counts.
    """

    def __init__(self, boundary: bytes) -> None:
        self._mark = b"--" + boundary
        self._announced = bool(boundary)
        self._buffer = bytearray()
        self._between = 0  # bytes since the last picture that belong to no picture

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> bytes | None:
        """The next complete picture; None where bytes are missing. ValueError for other data."""
        start = self._buffer.find(self._mark) if self._announced else -1
        if start < 0:
            used = _DELIMITER.search(self._buffer)
            if used is not None:
                self._mark, self._announced = used[1], True
                start = used.start(1)
        if start < 0:
            idle = max(0, len(self._buffer) - _KEPT)  # the rest may hold a part of a delimiter
            del self._buffer[:idle]
            self._between += idle
            if self._between > MAX_JPEG_BYTES:
                raise ValueError("it sends other data than the announced pictures")
            return None
        self._between = 0
        headers = _HEADERS_END.search(self._buffer, start)
        if headers is None:
            if len(self._buffer) - start > _MAX_HEADERS:
                raise ValueError("a picture's headers have no end")
            return None
        length = _LENGTH.search(self._buffer, start, headers.start() + 2)
        if length is not None:
            end = headers.end() + int(length[1])
            if int(length[1]) > MAX_JPEG_BYTES:
                raise ValueError(f"a picture of {int(length[1])} bytes is too large")
            complete = len(self._buffer) >= end
        else:
            end = self._buffer.find(self._mark, headers.end())
            if len(self._buffer) - start > MAX_JPEG_BYTES:
                raise ValueError("a picture has no end")
            complete = end >= 0
        if not complete:
            return None
        jpeg = bytes(self._buffer[headers.end() : end])
        del self._buffer[:end]
        return jpeg


def _limit_silence(response: requests.Response, stall_s: float) -> None:
    """Sets the timeout of an open stream, which is shorter than that of opening it."""
    # The socket of a response is not public; where it is not found, the timeout of opening stays.
    body = getattr(getattr(response.raw, "_fp", None), "fp", None)
    sock: Any = getattr(getattr(body, "raw", None), "_sock", None)
    if sock is not None:
        sock.settimeout(stall_s)
