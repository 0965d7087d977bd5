"""Sends searches to pgvector through its own driver, as `load.py` sends requests over HTTP.

Runs as a process of its own (`python -m tests.benchmarks.server.pgvector_client`).
"""

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from itertools import cycle

import numpy as np
import psycopg
from pgvector.psycopg import register_vector_async  # type: ignore[import-not-found]

from tests.benchmarks.server.load import Figures, Window

SEARCH = """
SELECT id, -(embedding <#> %(probe)s) FROM templates ORDER BY embedding <#> %(probe)s LIMIT 10
"""


@dataclass(frozen=True, slots=True)
class Job:
    """The searches to send, the number of connections, and the duration."""

    uri: str
    options: str  # of each connection
    probes: str  # a .npy file, (p, 512) float32
    clients: int
    seconds: float
    warm_up_s: float = 0.5


async def run(job: Job) -> Figures:
    """Lets all clients search until the time is over."""
    probes = cycle(np.load(job.probes))
    connections = [await _connection(job) for _ in range(job.clients)]
    window = Window(job.clients, job.seconds, job.warm_up_s)

    async def search(connection: "psycopg.AsyncConnection[tuple[int, float]]") -> None:
        cursor = connection.cursor(binary=True)
        is_first = True
        while not window.is_over:
            sent_s = time.perf_counter()
            await cursor.execute(SEARCH, {"probe": next(probes)}, prepare=True)
            await cursor.fetchall()
            window.received(sent_s, first=is_first)
            is_first = False

    await asyncio.gather(*map(search, connections))
    figures = window.end()
    for connection in connections:
        await connection.close()
    return figures


async def _connection(job: Job) -> "psycopg.AsyncConnection[tuple[int, float]]":
    connection: psycopg.AsyncConnection[tuple[int, float]]
    connection = await psycopg.AsyncConnection.connect(
        job.uri, autocommit=True, options=job.options
    )
    await register_vector_async(connection)
    return connection


if __name__ == "__main__":
    json.dump(asdict(asyncio.run(run(Job(**json.load(sys.stdin))))), sys.stdout)
