"""What people would write instead of a server like Muster's: a library behind Flask.

Started by gunicorn, which calls `create_app`. Requests are the same as Muster's, and there are no
persons, no keys and no database.
"""

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
from flask import Flask, Response, jsonify, request
from numpy.typing import NDArray

Row = NDArray[np.float32]
Search = Callable[[Row, int], tuple[Any, Any]]  # numbers of rows and similarities, best first


def create_app(library: str, path: str) -> Flask:
    """An application that searches the rows of a .npy file, (n, 512) float32."""
    app, search = Flask(__name__), LIBRARIES[library](np.load(path))

    @app.post("/v1/collections/default/search")
    def best() -> Response:
        body = request.get_json()
        data = base64.b64decode(body["templates"][0]["vector"])
        probe = np.frombuffer(data, "<f2").astype(np.float32)
        rows = zip(*search(probe, body["limit"]), strict=True)
        return jsonify(candidates=[{"id": int(n), "similarity": float(s)} for n, s in rows])

    @app.get("/readyz")
    def ready() -> Response:
        return jsonify(ready=True)

    return app


def _numpy(rows: Row) -> Search:
    def search(probe: Row, limit: int) -> tuple[Any, Any]:
        similarities = rows @ probe
        best = np.argpartition(similarities, -limit)[-limit:]
        best = best[np.argsort(-similarities[best])]
        return best, similarities[best]

    return search


def _faiss(rows: Row) -> Search:
    import faiss  # type: ignore[import-not-found]

    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)

    def search(probe: Row, limit: int) -> tuple[Any, Any]:
        similarities, numbers = index.search(probe[None], limit)
        return numbers[0], similarities[0]

    return search


def _qdrant(rows: Row) -> Search:
    """Qdrant's engine in this process: an exact scan, without its index HNSW."""
    import tempfile

    import qdrant_edge as qdrant  # type: ignore[import-not-found]

    vectors = qdrant.EdgeVectorParams(size=rows.shape[1], distance=qdrant.Distance.Dot)
    plain = qdrant.HnswIndexConfig(m=0, ef_construct=100, full_scan_threshold=10_000)
    config = qdrant.EdgeConfig(vectors=vectors, hnsw_config=plain, wal_enabled=False)
    shard = qdrant.EdgeShard.create(f"{tempfile.mkdtemp()}/shard", config)
    for start in range(0, rows.shape[0], 5000):
        points = enumerate(rows[start : start + 5000], start)
        points = [qdrant.Point(number, row) for number, row in points]
        shard.update(qdrant.UpdateOperation.upsert_points(points))
    shard.optimize()

    def search(probe: Row, limit: int) -> tuple[Any, Any]:
        nearest = qdrant.Query.Nearest(probe.tolist())
        exact = qdrant.SearchParams(exact=True)
        points = shard.search(qdrant.SearchRequest(nearest, limit, params=exact))
        return [point.id for point in points], [point.score for point in points]

    return search


LIBRARIES: dict[str, Callable[[Row], Search]] = {
    "numpy": _numpy,
    "faiss": _faiss,
    "qdrant": _qdrant,
}
