"""Generated requests to every call of a running server, made from its OpenAPI document."""

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from shared.encryption import Key
from tests.support.serving import key, started, stopped

# Left out: `positive_data_acceptance` (rules between fields, and whether a picture shows a face,
# are beyond a schema), and event streams, which do not end.
_CONFIGURATION: Final = """
hooks = "{hooks}"

[checks]
positive_data_acceptance.enabled = false
negative_data_rejection.expected-statuses = [
    "400", "401", "403", "404", "406", "409", "410", "411", "413", "414", "415", "422", "428", "429"
]
# 503 is documented: e.g. after the collection that probes search was deleted.
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "503"]

[[operations]]
# Each probe of a list has a result of its own: an invalid one is `refused`, the status is 200.
include-name = ["POST /v1/probes", "POST /v1/collections/{collection}/enroll"]
checks.negative_data_rejection.enabled = false

[[operations]]
include-path = "/v1/events/stream"
enabled = false
"""
_EXAMPLES: Final = 8  # random requests to each call, besides those at the borders of its fields
_LONGEST_S: Final = 600.0


def run(seconds: float, seed: int) -> str:
    """Send rounds of requests for at least `seconds`. Raises AssertionError at a failure."""
    until_s = time.monotonic() + seconds
    count = rounds = 0
    with tempfile.TemporaryDirectory() as folder, attacked(Path(folder)) as (base, admin):
        while not rounds or time.monotonic() < until_s:
            count += round_of_requests(base, admin, Path(folder), seed + rounds)
            rounds += 1
    return f"{count:,} requests in {rounds} rounds"


@contextmanager
def attacked(folder: Path) -> Iterator[tuple[str, str]]:
    """A server with encryption, and an admin's key; in the end it must stop without an error."""
    data = folder / "data"
    admin = key(data, "admin")
    process, base = started(
        data,
        folder / "log",
        MUSTER_ENCRYPTION_KEY=Key.new().text,
        MUSTER_BAD_KEYS_PER_MINUTE="100000",  # a client without a valid key sends many
    )
    try:
        yield base, admin
    finally:
        status = stopped(process)
    assert status == 0, status


def round_of_requests(base: str, admin: str, folder: Path, seed: int) -> int:
    """Send requests to all calls, and return their number.

    Raises AssertionError when a status, schema or content type is not documented.
    """
    configuration = folder / "schemathesis.toml"
    hooks = Path(__file__).parents[1] / "match_server" / "api" / "contract_hooks.py"
    configuration.write_text(_CONFIGURATION.replace("{hooks}", str(hooks)))
    ran = subprocess.run(
        [
            str(Path(sys.executable).with_name("st")),
            *("--config-file", str(configuration), "run", f"{base}/openapi.json"),
            *("--header", f"Authorization: Bearer {admin}", "--seed", str(seed), "--no-color"),
            *("--phases", "examples,coverage,fuzzing", "--max-examples", str(_EXAMPLES)),
            *("--generation-database", ":memory:", "--warnings", "off"),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=_LONGEST_S,
    )
    made = re.search(r"Test cases:\s+(\d+) generated", ran.stdout)
    assert ran.returncode == 0, f"seed {seed}: {ran.stdout[-8000:]}"
    assert made, ran.stdout[-2000:]
    return int(made[1])
