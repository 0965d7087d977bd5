"""pgvector as a peer: a real PostgreSQL with all rows in one table, exact and by HNSW."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
from pgvector.psycopg import register_vector  # type: ignore[import-not-found]

from tests.benchmarks.gallery.people import DIMENSION, Rows
from tests.benchmarks.server.contenders import Contender
from tests.benchmarks.server.load import Figures
from tests.benchmarks.server.pgvector_client import SEARCH, Job
from tests.benchmarks.server.serving import measured
from tests.support.postgres import Postgres, postgres

_EXACT = {"pgvector, exact": "-c enable_indexscan=off"}
_HNSW = {  # how many candidates it follows: its default, and more for a better recall
    "pgvector, HNSW 40": "-c enable_seqscan=off",
    "pgvector, HNSW 400": "-c enable_seqscan=off -c hnsw.ef_search=400",
}
_PAGES = """
shared_buffers = {mib}MB
maintenance_work_mem = {mib}MB
"""


@contextlib.contextmanager
def pgvector(rows: Rows, probes: Rows, file: Path, *, hnsw: bool) -> Iterator[list[Contender]]:
    """A server with the rows, all of it in shared memory; `file` has the probes for clients."""
    mib = 256 + rows.nbytes * (3 if hnsw else 1.5) // 2**20
    with postgres(settings=_PAGES.format(mib=int(mib))) as server, contextlib.ExitStack() as stack:
        with psycopg.connect(server.uri(), autocommit=True) as connection:
            _fill(connection, rows)
            if hnsw:
                connection.execute("CREATE INDEX ON templates USING hnsw (embedding vector_ip_ops)")
        kinds = {**_EXACT, **(_HNSW if hnsw else {})}
        yield [
            _contender(stack, server, name, options, probes, file)
            for name, options in kinds.items()
        ]


def _fill(connection: psycopg.Connection, rows: Rows) -> None:
    """As its documentation advises: unit vectors by inner product, in the rows themselves."""
    connection.execute("CREATE EXTENSION vector")
    register_vector(connection)
    connection.execute(f"CREATE TABLE templates (id int8, embedding vector({DIMENSION}))")
    connection.execute("ALTER TABLE templates ALTER embedding SET STORAGE PLAIN")
    copying = "COPY templates FROM STDIN (FORMAT BINARY)"
    with connection.cursor() as cursor, cursor.copy(copying) as copy:
        copy.set_types(["int8", "vector"])
        for number, row in enumerate(rows):
            copy.write_row((number, row))
    connection.execute("VACUUM ANALYZE templates")


def _contender(
    stack: contextlib.ExitStack,
    server: Postgres,
    name: str,
    options: str,
    probes: Rows,
    file: Path,
) -> Contender:
    connection = stack.enter_context(
        psycopg.connect(server.uri(), autocommit=True, options=options)
    )
    register_vector(connection)

    def search(number: int) -> list[int]:
        cursor = connection.execute(SEARCH, {"probe": probes[number]}, binary=True, prepare=True)
        return [row[0] for row in cursor.fetchall()]

    def load(clients: int, seconds: float) -> Figures:
        job = Job(server.uri(), options, str(file), clients, seconds)
        return measured(psutil.Process(server.pid), job, client=Job.__module__)

    return Contender(name, load, search)
