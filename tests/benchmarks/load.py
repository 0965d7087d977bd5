"""A load generator: keep-alive connections that each send their next request on an answer.

Runs as a process of its own (`python -m tests.benchmarks.load`): a job on standard input, figures
on standard output, both JSON. Requests are rendered before they are sent and answers are not
parsed, so that a request costs this side some tens of microseconds.
"""

import asyncio
import json
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


@dataclass(slots=True)
class Figures:
    """The responses after the warm-up."""

    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    failed: int = 0  # answers other than 200


class _Connection(asyncio.Protocol):
    def __init__(self, requests: "_Requests", figures: Figures, until_s: float) -> None:
        self._requests = requests
        self._figures = figures
        self._until_s = until_s
        self._received = b""
        self._sent_s = 0.0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, result, body = self._received.partition(b"\r\n\r\n")
        if not result or len(body) < _content_length(head):
            return
        now_s = time.perf_counter()
        if head[9:12] != b"200":
            self._figures.failed += 1
        if self._sent_s >= self._requests.measured_from_s:
            self._figures.latencies_ms.append((now_s - self._sent_s) * 1e3)
        self._received = b""
        if now_s < self._until_s:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if time.perf_counter() < self._until_s:
            self.done.set_exception(error or ConnectionError("the server hung up"))
        else:
            self.done.set_result(None)

    def _send(self) -> None:
        data = self._requests.next()
        self._sent_s = time.perf_counter()
        self._transport.write(data)  # type: ignore[attr-defined]  # of a TCP transport


class _Requests:
    """The requests to send, one after the other."""

    def __init__(self, job: Job, measured_from_s: float) -> None:
        self.measured_from_s = measured_from_s
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
        f"POST {job.path} HTTP/1.1\r\nHost: {job.host}:{job.port}\r\n"
        f"Authorization: Bearer {job.key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n"
    )
    return [part.encode() for part in (head + body).split(NEW_ID)]


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ValueError("an answer without Content-Length")


async def run(job: Job) -> Figures:
    """Let all clients send until the time is over."""
    start_s = time.perf_counter()
    measured_from_s = start_s + job.warm_up_s
    requests, figures = _Requests(job, measured_from_s), Figures()
    until_s = measured_from_s + job.seconds
    loop = asyncio.get_running_loop()
    connections = [
        (
            await loop.create_connection(
                lambda: _Connection(requests, figures, until_s), job.host, job.port
            )
        )[1]
        for _ in range(job.clients)
    ]
    await asyncio.gather(*(connection.done for connection in connections))
    figures.seconds = time.perf_counter() - measured_from_s
    return figures


if __name__ == "__main__":
    answer = asyncio.run(run(Job(**json.load(sys.stdin))))
    json.dump(asdict(answer), sys.stdout)
