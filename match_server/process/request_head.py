"""Reads the heads of plain requests in few steps; gunicorn's own parser reads all others.

gunicorn checks each line of a head in many steps, which takes longer than all else between socket
and application. Nearly every request has a head that one expression describes. For such a head
this parser returns what gunicorn's returns where no header of a proxy is trusted (a test compares
them). Everything unusual, and everything that must be refused, is left to gunicorn.
"""

import re
from typing import Any

from gunicorn.http.message import Request  # type: ignore[import-untyped]
from gunicorn.http.parser import RequestParser  # type: ignore[import-untyped]

_LONGEST = 4000  # below gunicorn's limits of a line, a field and all fields
_MOST_FIELDS = 60
_VALUE = rb"(?:[!-~](?:[ -~]*[!-~])?)?"
_PLAIN = re.compile(
    rb"(GET|HEAD|POST|PUT|PATCH|DELETE) (/(?:[!-\"$-.0-~][!-\"$-~]*)?) HTTP/1\.1\r\n"
    rb"((?:[A-Za-z0-9-]+: ?" + _VALUE + rb"\r\n)+)\r\n"
)
_UNUSUAL = frozenset({"EXPECT", "TRANSFER-ENCODING"})


class PlainRequest(Request):  # type: ignore[misc]  # gunicorn has no types
    """A request whose head is read at once where it is plain."""

    def parse(self, unreader: Any) -> bytes:
        data: bytes = unreader.read()
        head = _PLAIN.match(data, 0, _LONGEST)
        if head is None or not self._take(*head.groups()):
            if data:
                unreader.unread(data)
            rest: bytes = super().parse(unreader)
            return rest
        return data[head.end() :]

    def _take(self, method: bytes, target: bytes, fields: bytes) -> bool:
        """Takes the parts of a plain head; returns False where it is unusual after all."""
        lines = fields.decode("ascii").split("\r\n")
        headers = []
        for line in lines[:-1]:
            name, _, value = line.partition(":")
            headers.append((name.upper(), value.lstrip(" ")))
        names = {name for name, _ in headers}
        if len(names) < len(headers) or len(headers) > _MOST_FIELDS or names & _UNUSUAL:
            return False
        self.method, self.uri = method.decode("ascii"), target.decode("ascii")
        self.path, _, self.query = self.uri.partition("?")
        self.fragment = ""
        self.version = (1, 1)
        self.headers = headers
        return True


class HeadParser(RequestParser):  # type: ignore[misc]  # gunicorn has no types
    """The parser of a connection: gunicorn's, with plain requests."""

    mesg_class = PlainRequest
