"""Real server processes: their events, metrics and logs."""

import json
import os
import re
import signal
import subprocess

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from shared.clock import SystemClock
from tests.support import serving
from tests.support.launcher import MATCH_SERVER, Launched
from tests.support.waiting import wait_until
from tests.support.webhook_receivers import Receiver

MODEL = "compact-mobilefacenet-512@1"
NAME = "Zebulon Quagmire"


class Server:
    """A match server over a data folder."""

    def __init__(self, data, *options):
        self.log = data.parent / "server.log"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MUSTER_LOG_LEVEL": "DEBUG"}
        with self.log.open("ab") as errors:
            self.process = Launched(
                [MATCH_SERVER, "serve", "--port", "0", "--data-dir", str(data), *options],
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                text=True,
            )
        match = re.search(r"http://[\d.:]+", self.process.stdout.readline())
        assert match, self.log.read_text()
        self.url = match[0]

    def end(self, number=signal.SIGTERM):
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
            if number == signal.SIGKILL:  # the workers see that their parent is gone
                self.process.wait(20)
            else:
                self.process.wait(30)
        self.process.stdout.close()


@pytest.fixture
def serve(tmp_path):
    started = []

    def begin(*options):
        started.append(Server(tmp_path / "data", *options))
        return started[-1]

    yield begin
    for server in started:
        if server.process.poll() is None:
            server.end()


@pytest.fixture
def key(tmp_path):
    return serving.key(tmp_path / "data", "admin")


@pytest.fixture
def receive():
    opened = []

    def open_receiver(*answers, port=0):
        opened.append(Receiver(*answers, port=port))
        return opened[-1]

    yield open_receiver
    for receiver in opened:
        receiver.close()


def call(server, key, method, path, **arguments):
    headers = {"Authorization": f"Bearer {key}", "Connection": "close"}
    return requests.request(method, server.url + path, headers=headers, timeout=30, **arguments)


def probe(helpers, seed, **more):
    return helpers.probe_message(
        helpers.unit_vector(seed), SystemClock().now(), model_id=MODEL, **more
    )


def figures(server):
    text = requests.get(f"{server.url}/metrics", timeout=30).text
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_server_killed_between_event_and_delivery_loses_none(serve, key, helpers, receive):
    away = receive()
    port = away.port
    away.close()
    server = serve("--workers", "2")
    made = call(
        server, key, "POST", "/v1/webhooks", json={"url": f"http://127.0.0.1:{port}/"}
    ).json()
    events = set()
    for number in range(1, 31):
        answer = call(server, key, "POST", "/v1/probes", json=probe(helpers, number))
        events.add(answer.json()["probes"][0]["event"]["id"])
    server.end(signal.SIGKILL)
    back = receive(port=port)
    again = serve("--workers", "2")
    wait_until(lambda: {event["id"] for event in back.taken} >= events, "every event")
    waiting = f"/v1/webhooks/{made['id']}"
    wait_until(lambda: call(again, key, "GET", waiting).json()["waiting"] == 0, "an empty queue")
    assert {event["id"] for event in back.taken} == events


def test_workers_count_together_and_go_on_when_one_dies(serve, key, helpers, tmp_path):
    server = serve("--workers", "2")
    for number in range(1, 21):
        call(server, key, "POST", "/v1/probes", json=probe(helpers, number))
    assert figures(server)["muster_probes_total", ("status", "accepted")] == 20
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(server.process.pid)],
        capture_output=True,
        text=True,
        check=True,
    )
    os.kill(int(children.stdout.split()[0]), signal.SIGKILL)
    for number in range(21, 31):
        wait_until(
            lambda number=number: _accepted(server, key, probe(helpers, number)),
            "an answer of the other worker",
        )
    (tmp_path / "other").mkdir()
    Server(tmp_path / "other" / "data").end()  # its start leaves the counts of others alone
    assert figures(server)["muster_probes_total", ("status", "accepted")] == 30


def _accepted(server, key, message):
    try:
        return call(server, key, "POST", "/v1/probes", json=message).status_code == 200
    except requests.ConnectionError:  # it was the one that died who had this connection
        return False


def test_nothing_biometric_no_name_and_no_key_gets_into_the_log(serve, key, helpers, receive):
    server, receiver = serve(), receive(500, 204)
    hook_url = f"{receiver.url}/hook-{'s3cret'}"
    hook = call(server, key, "POST", "/v1/webhooks", json={"url": hook_url}).json()
    person = call(server, key, "POST", "/v1/collections/default/persons", json={"name": NAME})
    number = person.json()["id"]
    vector = helpers.encode(helpers.unit_vector(1))
    place = f"/v1/collections/default/persons/{number}"
    body = {"template": vector, "model_id": MODEL}
    assert call(server, key, "POST", f"{place}/templates", json=body).status_code == 201
    sent = probe(helpers, 1)
    assert call(server, key, "POST", "/v1/probes", json=sent).status_code == 200
    for odd in (
        {**probe(helpers, 2), "template": vector[:-4] + "AAAA"},
        {**probe(helpers, 2), "thumbnail": "PHN2Zz4="},
        {**probe(helpers, 2), NAME: NAME},
    ):
        call(server, key, "POST", "/v1/probes", json=odd)
    search = {"templates": [{"vector": vector, "model_id": MODEL}]}
    call(server, key, "POST", "/v1/collections/default/search", json=search)
    call(server, key, "GET", f"/v1/collections/default/persons?q={NAME}&key={key}")
    call(server, key, "GET", f"/v1/collections/{NAME}")
    call(server, "muster_wrong_key-that-is-none", "GET", "/v1/keys")
    wait_until(lambda: receiver.taken, "a delivery")
    call(server, key, "DELETE", place)
    call(server, key, "GET", "/metrics")
    server.end()
    log = server.log.read_text()
    assert "A call of a webhook failed" in log
    hidden = {
        "name": NAME.split()[1],
        "person's id": number,
        "template": vector[:40],
        "template's end": vector[-40:],
        "thumbnail": sent["thumbnail"][:40],
        "key": key.rpartition("_")[2],
        "foreign key": "key-that-is-none",
        "webhook's secret": hook["secret"].removeprefix("whsec_"),
        "webhook's address": "s3cret",
    }
    leaked = [what for what, text in hidden.items() if text in log]
    assert leaked == []
    lines = [json.loads(line) for line in log.splitlines()]
    request_lines = [line for line in lines if line["message"] == "request"]
    assert len(request_lines) >= 12
    assert all(re.fullmatch(r"[\w.-]{1,64}", line["request_id"]) for line in request_lines)
