"""The log holds no key, template or face, at level DEBUG and for every error."""

import base64
import json
import os
import re
import subprocess
from datetime import UTC, datetime

import pytest
import requests

from tests.support.launcher import MATCH_SERVER, Launched, run

MODEL = "compact-mobilefacenet-512@1"
PASSWORD = "camera-password-4711"


@pytest.fixture
def server(tmp_path):
    """A server that logs at level DEBUG; returns its address, an admin's key, and its log."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MUSTER_LOG_LEVEL": "DEBUG"}
    environment["MUSTER_MAX_BODY_BYTES"] = "200000"
    data = ["--data-dir", str(tmp_path / "data")]
    made = run([MATCH_SERVER, "key", "create", "--role", "admin", "--json", *data], env=environment)
    log = tmp_path / "log"
    with log.open("wb") as errors:
        process = Launched(
            [MATCH_SERVER, "serve", "--port", "0", *data],
            stdout=subprocess.PIPE, stderr=errors, env=environment, text=True,
        )  # fmt: skip
    address = re.search(r"http://[\d.:]+", process.stdout.readline())
    assert address, log.read_text()
    yield address[0], json.loads(made.stdout)["key"], lambda: log.read_text() + made.stderr
    process.terminate()
    process.wait(20)
    process.stdout.close()


def _pieces(secret):
    """Returns texts that reveal a secret: its middle, also as Python prints it."""
    if isinstance(secret, str):
        return [secret[len(secret) // 3 :][:24]]
    text = base64.b64encode(secret).decode()
    raw = secret[len(secret) // 3 :][:12]
    return [text[len(text) // 3 :][:32], repr(raw)[2:-1], raw.hex()]


def test_no_key_template_or_face_is_in_the_log_whatever_goes_wrong(server, helpers):
    base, key, log = server
    headers = {"Authorization": f"Bearer {key}"}

    def send(method, path, **arguments):
        all_headers = headers | arguments.pop("headers", {})
        return requests.request(method, base + path, headers=all_headers, timeout=30, **arguments)

    vector = helpers.unit_vector(1)
    template, picture = helpers.encode(vector), base64.b64decode(helpers.thumbnail(3))
    probe = helpers.probe_message(vector, _now(), model_id=MODEL, thumbnail=helpers.thumbnail(4))
    persons = "/v1/collections/default/persons"
    person = send("POST", persons, json={"name": "Xanthippe Rare"}).json()["id"]
    enrolled = {"template": template, "model_id": MODEL}
    assert send("POST", f"{persons}/{person}/templates", json=enrolled).status_code == 201
    vectors = {"templates": [{"vector": template, "model_id": MODEL}]}
    assert send("POST", "/v1/collections/default/search", json=vectors).status_code == 200
    taken = send("POST", "/v1/probes", json=probe).json()["probes"][0]
    assert taken["status"] == "accepted"
    hook = send("POST", "/v1/webhooks", json={"url": "http://127.0.0.1:9/hook-path-4711"}).json()
    send("POST", "/v1/devices", json={"name": "door-1"})
    code = send("POST", "/v1/devices/door-1/codes").json()["code"]
    desired = {"config": {"cameras": [{"source": f"rtsp://u:{PASSWORD}@192.0.2.1/1"}]}}
    assert send("PUT", "/v1/devices/door-1/config", json=desired).status_code == 200
    image = base64.b64encode(picture).decode()
    text = json.dumps(enrolled)
    statuses = [
        send("POST", f"{persons}/{person}/images", files={"image": ("a.jpg", picture)}),
        send("POST", "/v1/detect", json={"image": image[:-9]}),
        send("POST", "/v1/detect", json={"image": [image]}),
        send("POST", "/v1/detect", data=picture, headers={"Content-Type": "image/jpeg"}),
        send("POST", "/v1/detect", json={"image": image * 200}),
        send("POST", f"{persons}/{person}/templates", json={**enrolled, "model_id": "other@1"}),
        send("POST", f"{persons}/{person}/templates", json={**enrolled, "template": template[:-4]}),
        send("POST", f"{persons}/{person}/templates", data=text[:-5], headers=_JSON),
        send("POST", "/v1/probes", json=[{**probe, "box": template}, {"probe_id": template}]),
        send("POST", "/v1/probes", data=json.dumps(probe)[:-2], headers=_JSON),
        send("POST", "/v1/collections/default/enroll", data=f"{text}\n{{{text}", headers=_LINES),
        send("PUT", "/v1/devices/door-1/config", data=json.dumps(desired)[:-1], headers=_JSON),
        send("GET", f"/v1/images/{template[:40]}?key={key}"),
        send("GET", "/v1/keys", headers={"Authorization": f"Bearer {key[:-1]}"}),
        send("GET", "/v1/keys", headers={"Authorization": key}),
        requests.post(f"{base}/login", data={"key": key}, timeout=30, allow_redirects=False),
        requests.post(f"{base}/login", data={"key": key[:-2]}, timeout=30),
        requests.post(f"{base}/v1/devices/enroll", json={"code": code}, timeout=30),
    ]
    granted = statuses[-1].json()["key"]
    assert {one.status_code for one in statuses} >= {200, 303, 400, 401, 409, 413, 415}
    written = log()
    assert '"level": "debug"' in written or '"level": "info"' in written
    secrets = {
        "key": key, "key of a box": granted, "secret of a webhook": hook["secret"],
        "code": code, "camera's password": PASSWORD, "path of a webhook": "hook-path-4711",
        "name": "Xanthippe Rare", "template": vector.astype("<f2").tobytes(),
        "picture": picture, "thumbnail": base64.b64decode(probe["thumbnail"]),
    }  # fmt: skip
    leaked = {
        name for name, secret in secrets.items() for piece in _pieces(secret) if piece in written
    }
    assert leaked == set()


_JSON = {"Content-Type": "application/json"}
_LINES = {"Content-Type": "application/x-ndjson"}


def _now():
    return datetime.now(UTC)
