"""Requests to one match-server: each ends by its deadline, whatever the server does or does not."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from socket import SHUT_RDWR, socket
from typing import Any, Final

import requests
from pydantic import BaseModel, ConfigDict, ValidationError
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.poolmanager import PoolManager

from edge_agent.config.timeouts import Timeouts
from shared.clock import SystemClock
from shared.errors import Unavailable

_CHUNK_BYTES: Final = 64 * 1024
_LONGEST_PAUSE_S: Final = 3600.0
_IDENTITY: Final = "identity"

Query = dict[str, str | int | float]


class TooSlow(Unavailable):
    """The far end takes longer than its time; less to do at once may help."""


class Bearer(requests.auth.AuthBase):
    """Given as `auth`, so that a .netrc of the machine cannot replace the key."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._key}"
        return request


class Nobody(requests.auth.AuthBase):
    """Says nothing of who asks, also where the machine has a .netrc."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class Refusal(BaseModel):
    """What a server says of a call that it does not answer."""

    model_config = ConfigDict(extra="ignore")

    code: str = "refused"
    message: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A server's whole answer."""

    status: int
    reason: str
    body: bytes
    retry_after_s: float | None  # `Retry-After`, at most an hour

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def refusal(self) -> Refusal:
        try:
            return Refusal.model_validate_json(self.body)
        except ValidationError:
            return Refusal()


class ServerSession:
    """One request at a time, over one kept connection. Redirects are not followed.

    A server that is silent for `silence_s`, or takes longer than `request_s` in all, has failed;
    so has one whose connection `close` cuts, from any thread. Calls raise Unavailable, or TooSlow.
    `ca_file` is a private certificate authority.
    """

    def __init__(
        self,
        url: str,
        key: str | None,
        *,
        ca_file: Path | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self.base = url.rstrip("/")
        self.name = f"server {self.base}"
        self._timeouts = timeouts or Timeouts()
        self._line = _Line(self._timeouts.request_s)
        self._closed = False
        self._session = requests.Session()
        self._session.auth = Nobody() if key is None else Bearer(key)
        self._session.headers["Content-Type"] = "application/json"
        # A few bytes that unpack into gigabytes are not read at all: see `_send`.
        self._session.headers["Accept-Encoding"] = _IDENTITY
        if ca_file is not None:
            self._session.verify = str(ca_file)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _Adapter(self._line))

    def call(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        query: Query | None = None,
        most_bytes: int,
        wait_s: float = 0.0,
    ) -> Answer:
        """The answer, of `most_bytes` at most; the server was asked to wait for `wait_s`."""
        with (
            self._ended_in_time(self._timeouts.request_s + wait_s),
            self._send(method, path, body, query, wait_s) as response,
        ):
            return self._whole(response, most_bytes)

    @contextmanager
    def stream(self, path: str, query: Query, within_s: float) -> Iterator[requests.Response]:
        """GETs what is read bit by bit, within `within_s`. Reading raises Unavailable too."""
        with self._ended_in_time(within_s), self._send("GET", path, None, query, 0.0) as response:
            yield response

    def answer(self, response: requests.Response) -> Answer:
        """What a streamed response says where it is no stream."""
        return self._whole(response, _CHUNK_BYTES)

    def close(self) -> None:
        """Ends what is under way; further calls raise Unavailable."""
        self._closed = True
        self._line.cut()
        self._session.close()

    def _send(
        self, method: str, path: str, body: bytes | None, query: Query | None, wait_s: float
    ) -> requests.Response:
        response = self._session.request(
            method,
            self.base + path,
            data=body,
            params=query,
            timeout=(self._timeouts.connect_s, self._timeouts.silence_s + wait_s),
            allow_redirects=False,
            stream=True,
            # Else a REQUESTS_CA_BUNDLE in the environment takes the place of `ca_file`.
            verify=self._session.verify,
        )
        if response.headers.get("Content-Encoding", _IDENTITY).lower() != _IDENTITY:
            response.close()
            raise Unavailable(f"the {self.name} answered compressed, which it was not asked for")
        return response

    def _whole(self, response: requests.Response, most_bytes: int) -> Answer:
        body = bytearray()
        for chunk in response.iter_content(_CHUNK_BYTES):
            body += chunk
            if len(body) > most_bytes:
                raise Unavailable(f"the {self.name} answered far more than was asked for")
        pause_s = _retry_after_s(response.headers.get("Retry-After", ""))
        return Answer(response.status_code, response.reason or "", bytes(body), pause_s)

    @contextmanager
    def _ended_in_time(self, within_s: float) -> Iterator[None]:
        """Cuts the line when the time is over; says every failure in this product's words."""
        self._line.is_cut = False
        if self._closed:
            raise Unavailable(f"the connection to the {self.name} is closed")
        timer = threading.Timer(within_s, self._line.cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        except requests.RequestException as error:
            if isinstance(error, requests.Timeout) or (self._line.is_cut and not self._closed):
                raise TooSlow(f"the {self.name} did not answer in time") from error
            if isinstance(error, requests.exceptions.SSLError):
                raise Unavailable(
                    f"the {self.name} has no certificate that is trusted here"
                ) from error
            raise Unavailable(f"the {self.name} cannot be reached") from error
        finally:
            timer.cancel()


class _Line:
    """The connection that is in use, so that another thread can end it."""

    def __init__(self, send_s: float) -> None:
        self.send_s = send_s
        self.is_cut = False
        self.connection: HTTPConnection | None = None

    def cut(self) -> None:
        self.is_cut = True
        sock = None if self.connection is None else self.connection.sock
        if sock is not None:
            with suppress(OSError):  # ended by itself meanwhile
                # Not TLS's own shutdown, which takes what the reading thread still needs.
                socket.shutdown(sock, SHUT_RDWR)

    def connected(self, connection: HTTPConnection) -> None:
        if self.is_cut:
            connection.close()
            raise TimeoutError("the time was over before there was a connection")
        if connection.sock is not None:
            connection.sock.settimeout(self.send_s)  # else sending ends when connecting should


class _Adapter(HTTPAdapter):
    """Makes connections that the line knows of."""

    def __init__(self, line: _Line) -> None:
        self._line = line
        super().__init__(pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        _watch(self.poolmanager, self._line)

    def proxy_manager_for(self, proxy: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **options)
        _watch(manager, self._line)
        return manager


def _watch(manager: PoolManager, line: _Line) -> None:
    class Plain(HTTPConnection):
        def connect(self) -> None:
            line.connection = self
            super().connect()
            line.connected(self)

    class Secure(HTTPSConnection):
        def connect(self) -> None:
            line.connection = self
            super().connect()
            line.connected(self)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    manager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}


def _retry_after_s(said: str) -> float | None:
    """`Retry-After` (RFC 9110, 10.2.3) in seconds, at most an hour; None where it is not said."""
    if said.isascii() and said.isdigit():
        return min(float(said), _LONGEST_PAUSE_S)
    try:
        wait_s = (parsedate_to_datetime(said) - SystemClock().now()).total_seconds()
    except (TypeError, ValueError):
        return None
    return min(max(wait_s, 0.0), _LONGEST_PAUSE_S)
