"""The OpenAPI document against the running server: thousands of odd requests by schemathesis."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from shared.envelope import Key
from tests.match_server.serving import COMMAND, key

# Left out: `positive_data_acceptance` (rules between fields, and whether a picture shows a face,
# are beyond a schema), and event streams, which do not end.
CONFIGURATION = """
hooks = "{hooks}"

[checks]
positive_data_acceptance.enabled = false
negative_data_rejection.expected-statuses = [
    "400", "401", "403", "404", "406", "409", "410", "411", "413", "414", "415", "422", "428", "429"
]
# 503 is an answer of the contract: once the collection that probes search was deleted, say.
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "503"]

[[operations]]
# Each probe of a list is judged by itself: a bad one is answered `refused` under 200.
include-name = ["POST /v1/probes", "POST /v1/collections/{collection}/enroll"]
checks.negative_data_rejection.enabled = false

[[operations]]
include-path = "/v1/events/stream"
enabled = false
"""


@pytest.fixture
def address(tmp_path):
    data = tmp_path / "data"
    admin = key(data, "admin")
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [*COMMAND, "serve", "--port", "0", "--data-dir", str(data)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={
                **os.environ,
                "MUSTER_ENCRYPTION_KEY": Key.new().text,
                "MUSTER_BAD_KEYS_PER_MINUTE": "100000",  # the stranger tries many
            },
        )
    base = re.search(r"http://[\d.:]+", server.stdout.readline())[0]
    yield base, admin
    server.terminate()
    try:
        assert server.wait(30) == 0
    finally:
        server.kill()
        server.stdout.close()


@pytest.mark.models
def test_no_request_finds_a_status_or_a_shape_that_the_document_does_not_have(address, tmp_path):
    base, key = address
    configuration = tmp_path / "schemathesis.toml"
    hooks = Path(__file__).with_name("contract_hooks.py")
    configuration.write_text(CONFIGURATION.replace("{hooks}", str(hooks)))
    ran = subprocess.run(
        [
            str(Path(sys.executable).with_name("st")),
            *("--config-file", str(configuration), "run", f"{base}/openapi.json"),
            *("--header", f"Authorization: Bearer {key}", "--seed", "7", "--no-color"),
            *("--phases", "examples,coverage,fuzzing", "--max-examples", "8"),
            *("--generation-database", ":memory:", "--warnings", "off"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stdout[-8000:]
    assert re.search(r"Test cases:\s+\d{3,} generated", ran.stdout), ran.stdout[-2000:]
