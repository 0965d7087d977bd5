"""Starts a server in a process of its own, and a client for it."""

import json
import os
import re
import signal
import subprocess
from functools import partial

import requests
from click.testing import CliRunner

from demo import processes
from match_server.commands.cli import main
from tests.support.launcher import MATCH_SERVER, Launched

running = partial(processes.running, start=Launched)
server = partial(processes.server, start=Launched)

MODEL = "compact-mobilefacenet-512@1"


def key(data, role, device=None):
    """Makes a key by running the command in this process: starting another takes a second."""
    command = ["key", "create", "--role", role, "--json", "--data-dir", str(data)]
    command += [] if device is None else ["--device", device]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["key"]


def started(data, log, *options, start=Launched, **environment):
    """Starts a server that logs into the file; returns the process and its address."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    with log.open("wb") as errors:
        process = start(
            [MATCH_SERVER, "serve", "--port", "0", "--data-dir", str(data), *options],
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            text=True,
        )
    line = process.stdout.readline()
    address = re.search(r"http://[\d.:]+", line)
    assert address, f"{line!r} {log.read_text()}"
    return process, address[0]


def stopped(process, number=signal.SIGTERM):
    """Stops the process; returns its exit status."""
    process.send_signal(number)
    try:
        return process.wait(20)
    finally:
        process.kill()
        process.stdout.close()


class Client:
    """Uses a new connection for each call, so that all workers get calls."""

    def __init__(self, base, key):
        self.base, self.headers = base, {"Authorization": f"Bearer {key}", "Connection": "close"}

    def __call__(self, method, path, **arguments):
        headers = {**self.headers, **arguments.pop("headers", {})}
        return requests.request(method, self.base + path, headers=headers, timeout=30, **arguments)

    def person(self, name, text=None):
        """Enrolls a person (with a template); returns its id and the sequence number."""
        made = self("POST", "/v1/collections/default/persons", json={"name": name}).json()
        if text is None:
            return made["id"], made["seq"]
        path = f"/v1/collections/default/persons/{made['id']}/templates"
        answer = self("POST", path, json={"template": text, "model_id": MODEL})
        assert answer.status_code == 201, answer.text
        return made["id"], answer.json()["seq"]

    def search(self, text, **more):
        body = {"templates": [{"vector": text, "model_id": MODEL}], "limit": 3, **more}
        answer = self("POST", "/v1/collections/default/search", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()
