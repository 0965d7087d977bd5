"""Network cameras that give JPEG after JPEG over HTTP (multipart/x-mixed-replace, RFC 2046).

Of the pictures that have come, only the newest is decoded: a camera that is faster than this
machine costs no growing delay.
"""

import re
import select
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import Message
from http.client import HTTPException, HTTPResponse
from typing import Any, Final, Self

import cv2
import numpy as np

from models.types import BgrImage
from shared.errors import SourceError

_OPEN_S: Final = 10.0
_READ_BYTES: Final = 65_536
_MAX_PART: Final = 16 * 1024 * 1024  # bytes: no camera's JPEG is larger
_MAX_HEADERS: Final = 16 * 1024
_AT_ONCE: Final = 32  # pictures that are passed over in one go, at most
_LENGTH: Final = re.compile(rb"^content-length:\s*(\d+)", re.IGNORECASE | re.MULTILINE)
_HEADERS_END: Final = re.compile(rb"\r?\n\r?\n")


class MjpegStream:
    """An open stream of JPEG pictures; stream time is the monotonic clock."""

    live, stills = True, False

    def __init__(self, name: str, response: HTTPResponse, boundary: bytes, stall_s: float) -> None:
        self._name = name
        self._response = response
        self._stall_s = stall_s
        self._parts = _Parts(boundary)
        self._jpeg = b""

    @classmethod
    def open(
        cls, name: str, url: str, login: tuple[str, str] | None, stall_s: float
    ) -> Self | None:
        """The stream at `url`, or None where something else than such a stream is found there.

        `name` is the address as it may be logged, `login` a name and password for basic or digest
        authentication. Raises SourceError where nothing is to be had.
        """
        try:
            response = _opener(url, login).open(url, timeout=_OPEN_S)
        except urllib.error.HTTPError as error:
            with error:
                why = "are name and password right?" if error.code in (401, 403) else error.reason
                raise SourceError(f"{name} answers {error.code}: {why}", source=name) from error
        except (OSError, ValueError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise SourceError(f"{name} cannot be opened: {reason}", source=name) from error
        boundary = _boundary(response.headers)
        if boundary is None:
            response.close()
            return None
        _limit_silence(response, stall_s)
        return cls(name, response, boundary, stall_s)

    def grab(self) -> float:
        try:
            self._jpeg = self._newest()
        except ValueError as error:
            raise SourceError(f"{self._name}: {error}", source=self._name) from error
        return time.monotonic()

    def retrieve(self) -> BgrImage:
        image = cv2.imdecode(np.frombuffer(self._jpeg, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise SourceError(f"{self._name} gave a picture that cannot be read", source=self._name)
        return image.astype(np.uint8, copy=False)

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
            return self._response.read1(_READ_BYTES)
        except (OSError, HTTPException) as error:  # a timeout is an OSError
            raise SourceError(f"{self._name} gives nothing any more", source=self._name) from error

    def _more_has_come(self) -> bool:
        return bool(select.select([self._response], [], [], 0)[0])


class _Parts:
    """Takes a stream of bytes apart, as cameras really write it: with lengths or without."""

    def __init__(self, boundary: bytes) -> None:
        self._mark = b"--" + boundary
        self._buffer = bytearray()
        self._between = 0  # bytes since the last picture that belong to none

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> bytes | None:
        """The next whole picture; None until more bytes were fed. ValueError for what is none."""
        start = self._buffer.find(self._mark)
        if start < 0:
            idle = max(0, len(self._buffer) - len(self._mark))  # the rest may be half a mark
            del self._buffer[:idle]
            self._between += idle
            if self._between > _MAX_PART:
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
            if int(said[1]) > _MAX_PART:
                raise ValueError(f"a picture of {int(said[1])} bytes is too large")
            whole = len(self._buffer) >= end
        else:
            end = self._buffer.find(self._mark, headers.end())
            if len(self._buffer) - start > _MAX_PART:
                raise ValueError("a picture has no end")
            whole = end >= 0
        if not whole:
            return None
        jpeg = bytes(self._buffer[headers.end() : end])
        del self._buffer[:end]
        return jpeg


def _opener(url: str, login: tuple[str, str] | None) -> urllib.request.OpenerDirector:
    if login is None:
        return urllib.request.build_opener()
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    passwords.add_password(None, url, *login)
    return urllib.request.build_opener(_Digest(passwords), _Basic(passwords))


class _Digest(urllib.request.HTTPDigestAuthHandler):
    def http_error_401(self, req: Any, fp: Any, *said: Any) -> Any:
        with _hung_up(fp) as answered:
            return answered(super().http_error_401(req, fp, *said))


class _Basic(urllib.request.HTTPBasicAuthHandler):
    def http_error_401(self, req: Any, fp: Any, *said: Any) -> Any:
        with _hung_up(fp) as answered:
            return answered(super().http_error_401(req, fp, *said))


@contextmanager
def _hung_up(fp: Any) -> Iterator[Callable[[Any], Any]]:
    """Closes the connection on which a login was asked for, as the library forgets to.

    Not where nobody has answered (None): then another handler looks at it.
    """
    answers: list[Any] = []

    def answered(answer: Any) -> Any:
        answers.append(answer)
        return answer

    try:
        yield answered
    finally:
        if answers != [None]:
            fp.close()


def _boundary(headers: Message) -> bytes | None:
    """What stands between two pictures; None where the answer is no row of pictures."""
    if headers.get_content_type() != "multipart/x-mixed-replace":
        return None
    said = headers.get_param("boundary")
    # Some cameras already write the two dashes here that belong in front of each use.
    return said.strip('"').lstrip("-").encode() if isinstance(said, str) and said else None


def _limit_silence(response: HTTPResponse, stall_s: float) -> None:
    """Opening may take longer than a camera may then be silent."""
    # There is no public way to the socket behind a response; without one, opening's limit stays.
    sock = getattr(getattr(response.fp, "raw", None), "_sock", None)
    if sock is not None:
        sock.settimeout(stall_s)
