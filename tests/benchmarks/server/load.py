"""A load generator: keep-alive connections that send the next request when a response is there.

Runs as a process of its own (`python -m tests.benchmarks.server.load`): a job on standard input,
figures on standard output, both JSON. Requests are rendered before they are sent and responses are
not parsed, so that a request costs this side some tens of microseconds.
"""

import asyncio
import json
import math
import sys
import time
from dataclasses import asdict, dataclass, field
from itertools import cycle

from shared.ids import new_id

NEW_ID = "@@new-id@@"
"""Placeholder in a body for a new UUIDv7, another one in each request."""


@dataclass(frozen=True, slots=True)
class Job:
    """The requests to send, the number of connections, and the duration."""

    host: str
    port: int
    path: str
    key: str
    bodies: list[str]  # sent in turns
    clients: int
    seconds: float
    warm_up_s: float = 0.5
    method: str = "POST"


@dataclass(slots=True)
class Figures:
    """The responses that arrived after the warm-up."""

    seconds: float = 0.0
    warm_up_s: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    failed: int = 0  # responses other than 200
    cpu_s: float = 0.0  # of the server

    def add(self, more: "Figures") -> None:
        """Adds the figures of another run of the same job."""
        self.seconds += more.seconds
        self.warm_up_s += more.warm_up_s
        self.latencies_ms += more.latencies_ms
        self.failed += more.failed
        self.cpu_s += more.cpu_s


class Window:
    """The measured time. It starts after the warm-up, when each client has had a response."""

    def __init__(self, clients: int, seconds: float, warm_up_s: float) -> None:
        self.figures = Figures()
        self._waiting = clients
        self._seconds = seconds
        self._started_s = time.perf_counter()
        self._from_s = self._started_s + warm_up_s
        self._until_s = math.inf

    @property
    def is_over(self) -> bool:
        """Whether no more requests are to be sent."""
        return time.perf_counter() >= self._until_s

    def received(self, sent_s: float, *, first: bool) -> None:
        """Counts a response; `first` is the first of its client."""
        now_s = time.perf_counter()
        if first:
            self._waiting -= 1
            if not self._waiting:
                self._from_s = max(self._from_s, now_s)
                self._until_s = self._from_s + self._seconds
        elif not self._waiting and now_s >= self._from_s:
            self.figures.latencies_ms.append((now_s - sent_s) * 1e3)

    def end(self) -> Figures:
        """The figures, when all clients have had their last response."""
        self.figures.seconds = time.perf_counter() - self._from_s
        self.figures.warm_up_s = self._from_s - self._started_s
        return self.figures


class _Connection(asyncio.Protocol):
    def __init__(self, requests: "_Requests", window: Window) -> None:
        self._requests = requests
        self._window = window
        self._received = b""
        self._sent_s = 0.0
        self._is_first = True
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, result, body = self._received.partition(b"\r\n\r\n")
        if not result or len(body) < _content_length(head):
            return
        if head[9:12] != b"200":
            self._window.figures.failed += 1
        self._window.received(self._sent_s, first=self._is_first)
        self._received, self._is_first = b"", False
        if self._window.is_over:
            self.done.set_result(None)
            self._transport.close()
        else:
            self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the server closed a connection"))

    def _send(self) -> None:
        data = self._requests.next()
        self._sent_s = time.perf_counter()
        self._transport.write(data)  # type: ignore[attr-defined]  # of a TCP transport


class _Requests:
    """The requests to send, one after the other."""

    def __init__(self, job: Job) -> None:
        self._rendered = cycle([_request(job, body) for body in job.bodies])

    def next(self) -> bytes:
        parts = next(self._rendered)
        if len(parts) == 1:
            return parts[0]
        pieces = [parts[0]]
        for part in parts[1:]:
            pieces += [new_id().encode(), part]
        return b"".join(pieces)


def _request(job: Job, body: str) -> list[bytes]:
    """One request, cut where a fresh id goes."""
    length = len(body.encode()) + body.count(NEW_ID) * (36 - len(NEW_ID))
    head = (
        f"{job.method} {job.path} HTTP/1.1\r\nHost: {job.host}:{job.port}\r\n"
        f"Authorization: Bearer {job.key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n"
    )
    return [part.encode() for part in (head + body).split(NEW_ID)]


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ValueError("a response without Content-Length")


async def run(job: Job) -> Figures:
    """Lets all clients send until the time is over."""
    requests, window = _Requests(job), Window(job.clients, job.seconds, job.warm_up_s)
    loop = asyncio.get_running_loop()
    connections = [
        (await loop.create_connection(lambda: _Connection(requests, window), job.host, job.port))[1]
        for _ in range(job.clients)
    ]
    await asyncio.gather(*(connection.done for connection in connections))
    return window.end()


if __name__ == "__main__":
    json.dump(asdict(asyncio.run(run(Job(**json.load(sys.stdin))))), sys.stdout)
