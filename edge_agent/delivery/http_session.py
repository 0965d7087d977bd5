"""Requests to one match-server. Each ends by its deadline, also with a hostile server."""

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


class TimedOut(Unavailable):
    """The server did not respond in time; a smaller request may help."""


class Bearer(requests.auth.AuthBase):
    """As `auth`, because a .netrc of the machine would replace a header."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._key}"
        return request


class NoAuth(requests.auth.AuthBase):
    """Sends no login, also where the machine has a .netrc."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class Refusal(BaseModel):
    """The error in a response."""

    model_config = ConfigDict(extra="ignore")

    code: str = "refused"
    message: str = ""


@dataclass(frozen=True, slots=True)
class ServerResponse:
    """A whole response."""

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

    A request fails when the server is silent for `silence_s` or takes longer than `request_s` in
    all, and when `close` is called, from any thread. Calls raise Unavailable, or TimedOut.
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
        self._connection = _OpenConnection(self._timeouts.request_s)
        self._closed = False
        self._session = requests.Session()
        self._session.auth = NoAuth() if key is None else Bearer(key)
        self._session.headers["Content-Type"] = "application/json"
        # No compression: a few bytes could unpack into gigabytes. See `_send`.
        self._session.headers["Accept-Encoding"] = _IDENTITY
        if ca_file is not None:
            self._session.verify = str(ca_file)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _Adapter(self._connection))

    def call(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        query: Query | None = None,
        max_bytes: int,
        wait_s: float = 0.0,
    ) -> ServerResponse:
        """Returns a response of at most `max_bytes`; the server may wait `wait_s` with it."""
        with (
            self._deadline(self._timeouts.request_s + wait_s),
            self._send(method, path, body, query, wait_s) as response,
        ):
            return self._read(response, max_bytes)

    @contextmanager
    def stream(self, path: str, query: Query, within_s: float) -> Iterator[requests.Response]:
        """GETs a response to be read in parts, within `within_s`. Reading may raise Unavailable."""
        with self._deadline(within_s), self._send("GET", path, None, query, 0.0) as response:
            yield response

    def whole(self, response: requests.Response) -> ServerResponse:
        """Reads a streamed response that is an error."""
        return self._read(response, _CHUNK_BYTES)

    def close(self) -> None:
        """Ends a running request; later calls raise Unavailable."""
        self._closed = True
        self._connection.cut()
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
            raise Unavailable(f"the {self.name} sent a compressed response that was not requested")
        return response

    def _read(self, response: requests.Response, max_bytes: int) -> ServerResponse:
        body = bytearray()
        for chunk in response.iter_content(_CHUNK_BYTES):
            body += chunk
            if len(body) > max_bytes:
                raise Unavailable(f"the {self.name} sent a response that is far too large")
        pause_s = _retry_after_s(response.headers.get("Retry-After", ""))
        return ServerResponse(response.status_code, response.reason or "", bytes(body), pause_s)

    @contextmanager
    def _deadline(self, within_s: float) -> Iterator[None]:
        """Closes the connection after `within_s`, and translates the errors of `requests`."""
        self._connection.is_cut = False
        if self._closed:
            raise Unavailable(f"the connection to the {self.name} is closed")
        timer = threading.Timer(within_s, self._connection.cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        except requests.RequestException as error:
            if isinstance(error, requests.Timeout) or (
                self._connection.is_cut and not self._closed
            ):
                raise TimedOut(f"the {self.name} did not respond in time") from error
            if isinstance(error, requests.exceptions.SSLError):
                raise Unavailable(
                    f"the {self.name} has no certificate that is trusted here"
                ) from error
            raise Unavailable(f"the {self.name} cannot be reached") from error
        finally:
            timer.cancel()


class _OpenConnection:
    """The connection in use, so that another thread can close it."""

    def __init__(self, send_s: float) -> None:
        self.send_s = send_s
        self.is_cut = False
        self.connection: HTTPConnection | None = None

    def cut(self) -> None:
        self.is_cut = True
        sock = None if self.connection is None else self.connection.sock
        if sock is not None:
            with suppress(OSError):  # it was closed meanwhile
                # Not TLS's own shutdown: the reading thread still needs its state.
                socket.shutdown(sock, SHUT_RDWR)

    def connected(self, connection: HTTPConnection) -> None:
        if self.is_cut:
            connection.close()
            raise TimeoutError("the time ran out before the connection was made")
        if connection.sock is not None:
            # Else the timeout of connecting applies to sending.
            connection.sock.settimeout(self.send_s)


class _Adapter(HTTPAdapter):
    """Makes connections that `_OpenConnection` can close."""

    def __init__(self, open_connection: _OpenConnection) -> None:
        self._connection = open_connection
        super().__init__(pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        _watch(self.poolmanager, self._connection)

    def proxy_manager_for(self, proxy: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **options)
        _watch(manager, self._connection)
        return manager


def _watch(manager: PoolManager, open_connection: _OpenConnection) -> None:
    class Plain(HTTPConnection):
        def connect(self) -> None:
            open_connection.connection = self
            super().connect()
            open_connection.connected(self)

    class Secure(HTTPSConnection):
        def connect(self) -> None:
            open_connection.connection = self
            super().connect()
            open_connection.connected(self)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    manager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}


def _retry_after_s(value: str) -> float | None:
    """Returns `Retry-After` (RFC 9110, 10.2.3) in seconds, at most an hour; None if invalid."""
    if value.isascii() and value.isdigit():
        return min(float(value), _LONGEST_PAUSE_S)
    try:
        wait_s = (parsedate_to_datetime(value) - SystemClock().now()).total_seconds()
    except (TypeError, ValueError):
        return None
    return min(max(wait_s, 0.0), _LONGEST_PAUSE_S)
