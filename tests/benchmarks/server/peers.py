"""Muster's server beside what people would run instead: the same searches, in turns, in one run.

All servers run at once, and each is measured alone while the others wait for requests. Vectors are
of made-up people (`tests/benchmarks/gallery/people.py`), and recall is against brute force in
double precision.
"""

import contextlib
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from match_server.settings import Settings
from tests.benchmarks.gallery.people import People, people, truth
from tests.benchmarks.peers import FACE_RECOGNITION, installed
from tests.benchmarks.server.contenders import (
    Contender,
    Endpoint,
    flask,
    flask_search,
    muster,
    muster_search,
)
from tests.benchmarks.server.flask_search import LIBRARIES
from tests.benchmarks.server.load import Figures
from tests.benchmarks.server.loads import picture_bodies
from tests.benchmarks.server.serving import row_of
from tests.benchmarks.tables import Row, print_table

PEERS = (*LIBRARIES, "pgvector", "pgvector-hnsw", "face_recognition")
_PACKAGES = ("faiss-cpu", "qdrant-edge-py", "pgvector")
_WORK = Path(__file__).parents[3] / "var" / "bench"
_MOST_FOR_HNSW = 200_000  # its index takes minutes: with more templates only where it is named
_PROBES = 256
_CHECKED = 64  # probes whose candidates are compared with the truth
_ROUNDS = 2
_MOST_PICTURE_CLIENTS = 8


def compare(
    settings: Settings, n: int, clients: list[int], seconds: float, names: str
) -> dict[str, list[Row]]:
    """Measures this server and its peers; returns the tables that it prints."""
    peers = _chosen(names, n)
    _install(peers)
    with contextlib.ExitStack() as stack:
        own, searchers, right = _started(stack, peers, n, settings)
        health = replace(own, bodies=[""], path="/healthz", method="GET")
        contenders = [muster_search(own), Contender("muster, /healthz", health.load), *searchers]
        recalls = {each.name: _recall(each, right) for each in contenders}
        rows = _measured(contenders, clients, seconds, recalls)
        print_table(f"Searches among {n:,}; ratio: Muster's searches a second ÷ theirs", rows)
        tables = {"searches": rows}
        if "face_recognition" in peers:
            tables["pictures"] = _pictures(
                stack, own, n, settings.worker_processes, clients, seconds
            )
    return tables


def _chosen(names: str, n: int) -> list[str]:
    if names == "usual":
        return [name for name in PEERS if name != "pgvector-hnsw" or n <= _MOST_FOR_HNSW]
    chosen = names.split(",")
    if unknown := set(chosen) - set(PEERS):
        raise click.BadParameter(f"unknown: {', '.join(sorted(unknown))}", param_hint="--peers")
    return chosen


def _install(peers: list[str]) -> None:
    """Peers are in folders of their own: they are no dependencies of the project."""
    _WORK.mkdir(parents=True, exist_ok=True)
    folders = [installed(_WORK / "server-peers", *_PACKAGES)]
    if "face_recognition" in peers:
        folders.append(installed(_WORK / "peers", *FACE_RECOGNITION))
    sys.path += map(str, folders)
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, folders))


def _started(
    stack: contextlib.ExitStack, peers: list[str], n: int, settings: Settings
) -> tuple[Endpoint, list[Contender], NDArray[np.int64]]:
    """This server and its peers, with n rows each, and the ten best rows of each probe."""
    crowd = people(n, "middling", _PROBES)
    sent = crowd.probes.astype(np.float16).astype(np.float32)  # as requests carry them
    crowd = replace(crowd, probes=sent)
    print("Filling the servers:", ", ".join(["muster", *peers]), flush=True)
    own = stack.enter_context(muster(settings, crowd.rows, crowd.probes))
    return own, _searchers(stack, peers, own, crowd, settings), truth(crowd).ids


def _searchers(
    stack: contextlib.ExitStack,
    peers: list[str],
    own: Endpoint,
    crowd: People,
    settings: Settings,
) -> list[Contender]:
    """The peers that search by vector, each with all rows."""
    rows, probes = settings.data_dir / "rows.npy", settings.data_dir / "probes.npy"
    np.save(rows, crowd.rows)
    np.save(probes, crowd.probes)
    contenders = [
        stack.enter_context(flask_search(name, rows, own.bodies, settings.worker_processes))
        for name in peers
        if name in LIBRARIES
    ]
    if {"pgvector", "pgvector-hnsw"} & set(peers):
        from tests.benchmarks.server.pgvector import pgvector  # when its driver is installed

        hnsw = "pgvector-hnsw" in peers
        contenders += stack.enter_context(pgvector(crowd.rows, crowd.probes, probes, hnsw=hnsw))
    return contenders


def _recall(contender: Contender, right: NDArray[np.int64]) -> float | None:
    """The share of the true ten best that it finds."""
    if contender.search is None:
        return None
    hits = [len(set(contender.search(i)) & set(right[i].tolist())) for i in range(_CHECKED)]
    return round(sum(hits) / (_CHECKED * right.shape[1]), 4)


def _measured(
    contenders: list[Contender],
    clients: list[int],
    seconds: float,
    recalls: Mapping[str, float | None],
) -> list[Row]:
    """All contenders in turns, for each number of clients; the first is compared with the rest."""
    rows: list[Row] = []
    for count in clients:
        totals = {each.name: Figures() for each in contenders}
        for _ in range(_ROUNDS):
            for each in contenders:
                totals[each.name].add(each.load(count, seconds / _ROUNDS))
        own = row_of(totals[contenders[0].name])
        for name, figures in totals.items():
            row = row_of(figures)
            ratio = float(own["requests_per_s"] or 0) / float(row["requests_per_s"] or 1)
            recall = {"recall_at_10": recalls[name]} if recalls else {}
            rows.append(
                {"clients": count, "server": name, "ratio": round(ratio, 2), **recall, **row}
            )
    return rows


def _pictures(
    stack: contextlib.ExitStack,
    own: Endpoint,
    n: int,
    workers: int,
    clients: list[int],
    seconds: float,
) -> list[Row]:
    """Searches by a picture of a megapixel, through this server and face_recognition."""
    bodies = picture_bodies()
    app = f"tests.benchmarks.server.flask_pictures:create_app({n})"
    workers = max(workers, os.cpu_count() or 1)  # of one thread each: dlib breaks with more
    peer = stack.enter_context(flask(app, bodies, workers, threads=1))
    contenders = [
        Contender("muster", replace(own, bodies=bodies).load),
        Contender("face_recognition, Flask", peer.load),
    ]
    few = [count for count in clients if count <= _MOST_PICTURE_CLIENTS]
    rows = _measured(contenders, few, seconds, {})
    print_table("Searches by a picture of a megapixel; ratio as above", rows)
    return rows
