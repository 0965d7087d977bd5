"""Calls of the application itself, without HTTP and without other threads."""

import io
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from match_server.app import create_app
from match_server.container import Services
from match_server.data_folder import page_secret
from shared.ids import new_id
from tests.benchmarks.server.load import NEW_ID
from tests.benchmarks.server.loads import Load
from tests.benchmarks.tables import Row


def in_process(services: Services, load: Load, key: str) -> Row:
    """Calls the application after half as many calls that warm it up."""
    app = create_app(services, page_secret(services.settings.data_dir), follow=False)
    calls = load.calls
    for number in range(calls // 2):
        _call(app, load, key, number)
    times = []
    cpu_s = time.process_time()
    for number in range(calls):
        start_s = time.perf_counter()
        _call(app, load, key, number)
        times.append((time.perf_counter() - start_s) * 1e3)
    cpu_s = time.process_time() - cpu_s
    return {
        "load": load.name,
        "probes_a_request": load.probes,
        "cpu_ms_a_request": round(cpu_s * 1e3 / calls, 3),
        "p50_ms": round(float(np.median(times)), 3),
        "p99_ms": round(float(np.percentile(times, 99)), 3),
    }


def _call(app: Callable[..., Any], load: Load, key: str, number: int) -> None:
    text = load.bodies[number % len(load.bodies)]
    while NEW_ID in text:
        text = text.replace(NEW_ID, new_id(), 1)
    body = text.encode()
    status = []
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": load.path,
        "SCRIPT_NAME": "",
        "QUERY_STRING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_AUTHORIZATION": f"Bearer {key}",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
    }
    response = app(environ, lambda line, _headers, _info=None: status.append(line))
    data = b"".join(response)
    if status != ["200 OK"] or b'"refused"' in data:
        raise RuntimeError(f"{load.name}: {status} {data[:300]!r}")
