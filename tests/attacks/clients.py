"""Clients that send and read slowly, little or incorrectly, to stop a server."""

import contextlib
import json
import random
import socket
import ssl
import struct
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import requests

from tests.support.serving import key, started, stopped
from tests.support.waiting import wait_until

JSON: Final = "Host: x\r\nContent-Type: application/json\r\n"
FORM: Final = "Host: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
STRANGERS: Final = {
    "silent": "",
    "half a head": "GET / HT",
    "does not close": "GET /healthz HTTP/1.0\r\n\r\n",
    "a request, and the beginning of one": "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nG",
    "without a key, half a body": f"POST /v1/detect HTTP/1.1\r\n{JSON}"
    "Content-Length: 999999\r\n\r\n{",
    "half a code": f"POST /v1/devices/enroll HTTP/1.1\r\n{JSON}Content-Length: 30\r\n\r\n{{",
    "a code in chunks": f"POST /v1/devices/enroll HTTP/1.1\r\n{JSON}"
    "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    "asks whether it may send a code": f"POST /v1/devices/enroll HTTP/1.1\r\n{JSON}"
    "Expect: 100-continue\r\nContent-Length: 30\r\n\r\n",
    "asks whether it may send a key": f"POST /login HTTP/1.1\r\n{FORM}"
    "Expect: 100-continue\r\nContent-Length: 15000\r\n\r\nkey=",
    "a length with many digits": f"POST /login HTTP/1.1\r\n{FORM}"
    "Content-Length: 0000015000\r\n\r\nkey=",
    "a length with more of them": f"POST /login HTTP/1.1\r\n{FORM}"
    f"Content-Length: {'9' * 5000}\r\n\r\nkey=",
    **{
        f"most of a form to {path}": f"POST {path} HTTP/1.1\r\n{FORM}"
        f"Content-Length: 100000\r\n\r\n{'a' * 65536}"
        for path in ("/edit/stop", "/edit", "/logout", "/events/x/decide", "/devices/x/invite")
    },
    "a form in chunks": f"POST /edit/stop HTTP/1.1\r\n{FORM}"
    "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
    "a head without end": "GET /healthz HTTP/1.1\r\n" + "X-A: b\r\n" * 10_000,
    "reads no answer": "GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 60,
}
"""What clients without a key send; then they wait, and read nothing."""

_ODD: Final = (
    "\r\n\r\n",
    "GET / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    "abcdeGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    "PUT /login HTTP/1.1\r\nHost: x\r\nExpect: something\r\nContent-Length: 5\r\n\r\n",
    "GET /static/people.js HTTP/1.1\r\nHost: x\r\n\r\n" * 1000,
)
_ATTACKERS: Final = 64
_LEFT_OPEN: Final = 20  # files, besides those before: connections to the database


def with_key(key_text: str) -> list[str]:
    """Returns what clients with a key send before they wait without reading."""
    head = f"Host: x\r\nAuthorization: Bearer {key_text}\r\n"
    stream = f"GET /v1/events/stream HTTP/1.1\r\n{head}\r\n"
    return [
        stream,
        stream * 3 + "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 5,
        f"GET /v1/changes?collection=default&since=0&wait=5 HTTP/1.1\r\n{head}\r\n" * 4,
        f"POST /v1/detect HTTP/1.1\r\n{head}Content-Type: application/json\r\n"
        f"Content-Length: 900000\r\n\r\n{' ' * 70000}",
        f"POST /v1/collections/default/enroll HTTP/1.1\r\n{head}"
        "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}\n{\r\n",
    ]


@dataclass
class Storm:
    """Many clients at once; each does one odd thing after another."""

    base: str
    kinds: list[str]
    until_s: float
    tls: ssl.SSLContext | None = None
    connections: int = 0

    def rage(self, seed: int) -> None:
        chance, address = random.Random(seed), urlsplit(self.base)
        while time.monotonic() < self.until_s:
            with contextlib.suppress(OSError), socket.socket() as plain:
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                plain.settimeout(1)
                plain.connect((address.hostname, address.port))
                self.connections += 1
                if self.tls is None or chance.random() < 0.1:
                    self._misbehave(plain, chance)
                else:
                    with self.tls.wrap_socket(plain, server_hostname=address.hostname) as wrapped:
                        self._misbehave(wrapped, chance)

    def _misbehave(self, connection: socket.socket, chance: random.Random) -> None:
        data = chance.choice(self.kinds).encode()
        for _ in range(chance.randint(1, 3)):
            cut = chance.randint(0, len(data))
            connection.sendall(data[:cut])
            time.sleep(chance.random() * 0.05)
            connection.sendall(data[cut:])
            if chance.random() < 0.5:
                connection.recv(chance.choice([1, 100, 100_000]))
        left_s = self.until_s - time.monotonic()
        time.sleep(min(max(0.0, left_s), chance.random() * chance.choice([0.01, 0.3, 4])))
        match chance.randrange(5):
            case 0 | 1:  # a reset
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            case 2:
                connection.shutdown(socket.SHUT_WR)
                time.sleep(0.02)


def storm(
    base: str, key_text: str, seconds: float, seed: int, authority: Path | None = None
) -> tuple[int, list[float]]:
    """Let clients rage, over TLS where an authority is given; ask whether the server lives.

    Returns the connections that they made, and the seconds of each answer to somebody else.
    """
    kinds = [*STRANGERS.values(), *_ODD, *with_key(key_text)]
    tls = None if authority is None else ssl.create_default_context(cafile=str(authority))
    raging = Storm(base, kinds, time.monotonic() + seconds, tls)
    threads = [
        threading.Thread(target=raging.rage, args=(seed * _ATTACKERS + number,))
        for number in range(_ATTACKERS)
    ]
    for thread in threads:
        thread.start()
    took_s = []
    while time.monotonic() < raging.until_s:
        sent_s = time.monotonic()
        answer = requests.get(
            f"{base}/healthz", verify=str(authority) if authority else True, timeout=30
        )
        assert answer.json()["status"] == "ok"
        took_s.append(time.monotonic() - sent_s)
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    return raging.connections, sorted(took_s)


def run(seconds: float, seed: int) -> str:
    """Attack a server of its own for about that long; a line of figures.

    Raises AssertionError where it does not answer, writes an error, or keeps what it opened.
    """
    with tempfile.TemporaryDirectory() as path:
        data, log = Path(path) / "data", Path(path) / "log"
        admin = key(data, "admin")
        process, base = started(data, log, "--threads", "8", MUSTER_CLIENT_TIMEOUT_S="2")
        try:
            requests.get(f"{base}/healthz", timeout=30)
            worker = _worker_of(process.pid)
            before = _open_files(worker)
            connections, took_s = storm(base, admin, seconds, seed)
            few_open = lambda: _open_files(worker) <= before + _LEFT_OPEN  # noqa: E731
            wait_until(few_open, "the server closes the connections")
        finally:
            assert stopped(process) == 0
        require_no_error(log)
    middle_s = took_s[len(took_s) // 2]
    return (
        f"clients: {connections:,} connections; others were answered in {middle_s:.3f} s (median), "
        f"{took_s[-1]:.3f} s at most"
    )


def require_no_error(log: Path) -> None:
    """Raises AssertionError if the server logged an error."""
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    errors = [one for one in entries if one["level"] not in ("info", "warning")]
    assert not errors, errors[0]


def _worker_of(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0])


def _open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
