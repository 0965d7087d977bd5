"""Real processes: workers that share a database agree under load, and end cleanly."""

import contextlib
import ctypes
import http.client
import json
import os
import re
import selectors
import signal
import socket
import sqlite3
import struct
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from match_server.schemas.base import ErrorBody
from tests.attacks.clients import JSON, STRANGERS, require_no_error, storm
from tests.support.launcher import MATCH_SERVER, run
from tests.support.serving import MODEL, Client, key, started, stopped
from tests.support.waiting import wait_until


@pytest.fixture
def server(tmp_path):
    data = tmp_path / "data"
    admin = key(data, "admin")
    process, base = started(data, tmp_path / "log", "--workers", "2", "--threads", "8")
    yield Client(base, admin), data, tmp_path / "log"
    assert stopped(process) == 0


def test_two_workers_agree_while_people_come_and_go(server, helpers):
    """Everyone who was enrolled is found at once by every worker, and nobody after erasure."""
    client, _, log = server
    wrong: list[str] = []

    def live_a_life(number):
        text = helpers.encode(helpers.unit_vector(number))
        for turn in range(3):
            name = f"P{number}.{turn}"
            person, seq = client.person(name, text)
            for _ in range(3):
                probe = client.search(text, min_seq=seq)["probes"][0]
                if not probe["person"] or probe["person"]["id"] != person:
                    wrong.append(f"{name} was not found")
            erased = client("DELETE", f"/v1/collections/default/persons/{person}")
            if erased.status_code != 200:
                wrong.append(f"{name} was not erased: {erased.text}")
            for _ in range(3):
                listed = client.search(text)["probes"][0]["candidates"]
                if any(one["person"]["id"] == person for one in listed):
                    wrong.append(f"{name} was found after the erasure")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(live_a_life, range(8)))
    assert wrong == []
    view = client("GET", "/v1/collections/default").json()
    assert (view["templates"], view["persons"]) == (0, 0)
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert len({one["pid"] for one in entries if one["message"] == "request"}) == 2
    assert not [one for one in entries if one["level"] == "error"]


def test_the_figures_are_of_all_workers_whichever_answers(server):
    client, _, _ = server
    metric = 'muster_request_seconds_count{method="GET",rule="/v1/keys",status="200"}'
    for _ in range(20):
        assert client("GET", "/v1/keys").status_code == 200
    pids, counts = set(), set()

    def both_counted():
        text = client("GET", "/metrics").text
        pids.update(re.findall(r'muster_gallery_lag\{pid="(\d+)"\}', text))
        counts.update(re.findall(re.escape(metric) + r" (\S+)", text))
        return len(pids) >= 2

    wait_until(both_counted, "both processes give their metrics")
    assert counts == {"20.0"}


def test_the_same_probe_sent_to_all_workers_at_once_is_one_event(server, helpers):
    client, _, _ = server
    probe = helpers.probe_message(helpers.unit_vector(1), datetime.now(UTC), model_id=MODEL)
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: client("POST", "/v1/probes", json=probe).json(), range(16))
        )
    statuses = [answer["probes"][0]["status"] for answer in answers]
    assert sorted(statuses) == ["accepted"] + ["duplicate"] * 15
    assert client("GET", "/v1/events").json()["items"][0]["probes"] == 1


def test_a_key_works_and_is_revoked_while_the_server_runs(server):
    client, data, _ = server
    viewer = Client(client.base, key(data, "viewer"))
    assert viewer("GET", "/v1/events").status_code == 200
    key_id = viewer.headers["Authorization"].split("_")[1]
    revoke = [MATCH_SERVER, "key", "revoke", key_id, "--data-dir", str(data)]
    run(revoke)
    assert viewer("GET", "/v1/events").status_code == 401


def test_what_was_answered_survives_a_kill(tmp_path, helpers):
    data = tmp_path / "data"
    admin = key(data, "admin")
    process, base = started(data, tmp_path / "log")
    client = Client(base, admin)
    texts = {n: helpers.encode(helpers.unit_vector(n)) for n in range(200)}
    acknowledged: dict[int, str] = {}

    def enroll(number):
        with contextlib.suppress(requests.RequestException):  # cut off: nothing was promised
            acknowledged[number] = client.person(f"P{number}", texts[number])[0]

    with ThreadPoolExecutor(4) as pool:
        for number in texts:
            pool.submit(enroll, number)
        wait_until(lambda: len(acknowledged) >= 20, "20 persons are acknowledged")
        _kill_all(process)
    process.stdout.close()
    assert 20 <= len(acknowledged) < len(texts)
    process, base = started(data, tmp_path / "log")
    try:
        again = Client(base, admin)
        for number, person in acknowledged.items():
            assert again.search(texts[number])["probes"][0]["person"]["id"] == person
    finally:
        stopped(process)


def _kill_all(process):
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in (process.pid, *map(int, children)):
        os.kill(pid, signal.SIGKILL)
    process.wait(10)


def test_a_body_in_broken_chunks_is_malformed(server):
    client, _, log = server
    address = urlsplit(client.base)
    head = (
        f"POST /v1/detect HTTP/1.1\r\nHost: x\r\nAuthorization: {client.headers['Authorization']}"
    )
    head += "\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(head.encode() + b"no length\r\n")
        answer = connection.makefile("rb").read()  # to its end: nothing can follow such a body
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"malformed"' in answer
    assert "Traceback" not in log.read_text()


_SO_ATTACH_FILTER = 26  # of Linux


@contextlib.contextmanager
def _with_timeout(folder, seconds):
    """Starts a server with this timeout for clients; returns its address, a key, and its log."""
    admin = key(folder / "data", "admin")
    limits = {"MUSTER_CLIENT_TIMEOUT_S": str(seconds), "MUSTER_MAX_STREAMS": "1"}
    process, base = started(folder / "data", folder / "log", "--threads", "4", **limits)
    yield base, admin, folder / "log"
    assert stopped(process) == 0


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    with _with_timeout(tmp_path_factory.mktemp("patient"), 300) as made:
        yield made


@pytest.fixture(scope="module")
def impatient(tmp_path_factory):
    with _with_timeout(tmp_path_factory.mktemp("impatient"), 1) as made:
        yield made


def test_clients_that_are_slow_take_no_thread_however_many_they_are(patient):
    """Each kind would stop a server for minutes that gives them threads."""
    base, _, _ = patient
    address = urlsplit(base)
    slow = []
    try:
        for kind, start in STRANGERS.items():
            for _ in range(16):
                connection = socket.socket()
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.settimeout(30)
                connection.connect((address.hostname, address.port))
                with contextlib.suppress(ConnectionError):  # some are refused at once
                    connection.sendall(start.encode())
                slow.append(connection)
            answer = requests.get(f"{base}/healthz", timeout=20)
            assert answer.json()["status"] == "ok", kind
        time.sleep(1)  # until no more of what nobody reads fits into the kernel
        assert requests.get(f"{base}/healthz", timeout=20).json()["status"] == "ok"
    finally:
        for connection in slow:
            connection.close()


def _bodies(base, key, size, sent, count):
    """Opens connections with a key that send the beginning of a body."""
    address = urlsplit(base)
    head = f"POST /v1/detect HTTP/1.1\r\n{JSON}Authorization: Bearer {key}\r\n"
    head += f"Content-Length: {size}\r\n\r\n"
    for _ in range(count):
        connection = socket.create_connection((address.hostname, address.port), timeout=30)
        connection.sendall(head.encode() + b" " * sent)
        yield connection


def test_clients_with_a_key_that_send_slowly_leave_threads_to_others(patient):
    base, admin, _ = patient
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(one) for one in _bodies(base, admin, 10**6, 70_000, 8)]
        assert requests.get(f"{base}/healthz", timeout=30).json()["status"] == "ok"
        with selectors.DefaultSelector() as answered:
            for connection in slow:
                answered.register(connection, selectors.EVENT_READ)
            refused = {one.fileobj for one, _ in answered.select(10)}
        assert {one.recv(13) for one in refused} == {b"HTTP/1.1 503 "}


def test_a_body_that_drips_is_cut_off_after_the_whole_time_that_it_has(impatient):
    base, admin, log = impatient
    (connection,) = _bodies(base, admin, 10**6, 65_536, 1)
    with connection:
        connection.settimeout(0.1)
        answer, deadline = b"", time.monotonic() + 20
        while not answer and time.monotonic() < deadline:
            with contextlib.suppress(ConnectionError):  # closed after the answer
                connection.sendall(b" ")
            with contextlib.suppress(TimeoutError):
                answer = connection.recv(1)
        answer += connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"request_timeout"' in answer
    assert "Traceback" not in log.read_text()


def test_a_program_on_this_machine_cannot_say_by_which_way_it_came(impatient):
    base, _, _ = impatient
    for headers in (
        {"SCRIPT_NAME": "/elsewhere"},
        {"X-Forwarded-Proto": "https"},
        {"X-Forwarded-Proto": "https", "X-Forwarded-Ssl": "off"},
        {"X-Forwarded-Protocol": "ssl", "X-Forwarded-Host": "elsewhere", "X-Forwarded-Port": "1"},
        {"X-Forwarded-Prefix": "/elsewhere", "Forwarded": "for=192.0.2.1;proto=https"},
    ):
        answer = requests.get(f"{base}/healthz", headers=headers, timeout=20)
        assert answer.status_code == 200, headers
        assert "Strict-Transport-Security" not in answer.headers, headers


def _lose_power(connection):
    """Silences this end of the connection: the kernel drops all packets."""
    drop_all = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF: return 0
    program = struct.pack("HL", 1, ctypes.addressof(drop_all))
    connection.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def test_the_place_of_a_stream_whose_client_lost_its_power_is_free_soon(impatient, helpers):
    base, admin, _ = impatient
    client, address = Client(base, admin), urlsplit(base)
    ask = f"GET /v1/events/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {admin}\r\n\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(ask.encode())
        assert connection.recv(12) == b"HTTP/1.1 200"
        assert client("GET", "/v1/events/stream", stream=True).status_code == 503
        _lose_power(connection)
        probe = helpers.probe_message(helpers.unit_vector(1), datetime.now(UTC), model_id=MODEL)
        assert client("POST", "/v1/probes", json=probe).status_code == 200
        stream = lambda: client("GET", "/v1/events/stream", stream=True)  # noqa: E731
        again = wait_until(lambda: (s := stream()).status_code != 503 and s, "a free place")
        assert again.status_code == 200
        again.close()


def test_clients_that_do_one_odd_thing_after_the_other_disturb_nobody(impatient):
    """For longer: `./dev bench attack clients`."""
    base, admin, log = impatient
    connections, took_s = storm(base, admin, seconds=2, seed=1)
    assert connections > 50
    assert took_s
    require_no_error(log)


def test_whoever_hangs_up_after_too_large_a_head_ends_no_worker(impatient):
    base, _, log = impatient
    address = urlsplit(base)
    for _ in range(100):
        with socket.create_connection((address.hostname, address.port), 30) as connection:
            connection.sendall(STRANGERS["a head without end"].encode())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert requests.get(f"{base}/healthz", timeout=30).status_code == 200
    require_no_error(log)


def test_answers_that_are_read_late_come_whole_and_in_order(server):
    """More than the kernel takes of them, asked for all at once."""
    client, _, _ = server
    address = urlsplit(client.base)
    text = requests.get(f"{client.base}/static/people.js", timeout=20).text.encode()
    ask = b"GET /static/people.js HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(30)
        connection.connect((address.hostname, address.port))
        connection.sendall(ask * 400)
        time.sleep(0.5)  # until the first of them cannot be sent
        connection.sendall(ask.replace(b"Host: x", b"Host: x\r\nConnection: close"))
        answers = connection.makefile("rb").read()
    assert answers.count(text) == 401
    assert len(answers) < 401 * (len(text) + 1000)


def test_a_locked_database_holds_few_threads_and_searches_go_on(patient, helpers):
    base, admin, log = patient
    client = Client(base, admin)
    vector = helpers.encode(helpers.unit_vector(1))
    client.search(vector)
    locking = sqlite3.connect(log.parent / "data" / "muster.db", isolation_level=None)
    with contextlib.closing(locking), ThreadPoolExecutor(12) as pool:
        locking.execute("BEGIN IMMEDIATE")
        began_s = time.monotonic()
        path = "/v1/collections/default/persons"
        writers = [pool.submit(client, "POST", path, json={"name": f"P{n}"}) for n in range(12)]
        refused = next(as_completed(writers)).result()
        client.search(vector)
        took_s = time.monotonic() - began_s
        locking.rollback()
        statuses = {one.result().status_code for one in writers}
    assert took_s < 10, "the search waited for the writers, each of which waits for 10 s"
    assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
    assert int(refused.headers["Retry-After"]) >= 1
    assert statuses == {201, 503}


REFUSED = {
    "a wrong key": ("POST", "/v1/detect", {"Authorization": "Bearer muster_wrong"}, 401),
    "no such address": ("POST", "/v1/nowhere", {}, 404),
    "a wrong method": ("PUT", "/v1/detect", {}, 405),
    "a wrong kind": ("POST", "/v1/detect", {"Content-Type": "text/plain"}, 415),
}


@pytest.mark.parametrize(("method", "path", "headers", "status"), REFUSED.values(), ids=REFUSED)
def test_the_connection_of_a_refused_upload_serves_the_next_request_or_says_that_it_closes(
    server, method, path, headers, status
):
    client, _, _ = server
    address = urlsplit(client.base)
    for size, drips in ((300_000, False), (8_000_000, False), (300_000, True)):
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=20)
        all_headers = {"Authorization": client.headers["Authorization"], **headers}
        connection.putrequest(method, path)
        for name, value in {"Content-Length": str(size), **all_headers}.items():
            connection.putheader(name, value)
        connection.endheaders(b"x" * (size // 2 if drips else size))
        answer = connection.getresponse()
        assert (answer.status, answer.read()[:1]) == (status, b"{")
        if drips:
            assert answer.getheader("Connection") == "close"
        else:  # http.client connects again only where the answer said that it closes
            connection.request("GET", "/healthz")
            assert connection.getresponse().status == 200
        connection.close()


def test_requests_come_in_pieces_one_after_the_other_and_several_at_once(server):
    client, _, _ = server
    address = urlsplit(client.base)
    body = json.dumps({"name": "Ann"}).encode()
    head = f"POST /v1/collections/default/persons HTTP/1.1\r\n{JSON}"
    head += (
        f"Authorization: {client.headers['Authorization']}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    whole = head.encode() + body
    ask = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        for place in range(0, len(whole), 97):
            connection.sendall(whole[place : place + 97])
            time.sleep(0.002)  # so that they come apart
        last = ask.replace(b"Host: x", b"Host: x\r\nConnection: close")
        connection.sendall(ask * 3 + whole + last[:-1])
        connection.sendall(last[-1:])
        answers = connection.makefile("rb").read()
    assert answers.count(b"HTTP/1.1 201 ") == 2
    assert answers.count(b'"status":"ok"') == 4


def test_what_is_no_request_is_refused_in_the_form_of_all_errors(tmp_path):
    process, base = started(tmp_path / "data", tmp_path / "log")
    address = urlsplit(base)
    whole = "HTTP/1.1\r\nHost: x\r\n"
    try:
        for sent, status in [
            (f"GET /v1/webhooks?behind={'1' * 6000} {whole}\r\n", 414),
            (f"GET / {whole}" + "X: 1\r\n" * 200 + "\r\n", 431),
            (f"GET / {whole}X: {'1' * 9000}\r\n\r\n", 431),
            (f"POST /v1/search {whole}Expect: gifts\r\n\r\n", 417),
            (f"POST /v1/search {whole}Transfer-Encoding: gifts, chunked\r\n\r\n", 501),
            ("GET / HTTP/9.9\r\n\r\n", 400),
            ("\x16\x03\x01 hello\r\n\r\n", 400),
            (f"GET / {whole}Bad Name: 1\r\n\r\n", 400),
        ]:
            with socket.create_connection((address.hostname, address.port), timeout=20) as peer:
                peer.sendall(sent.encode())
                head, _, body = peer.makefile("rb").read().partition(b"\r\n\r\n")
            assert int(head.split()[1]) == status, (sent[:40], head)
            assert b"\r\nContent-Type: application/json\r\n" in head
            assert ErrorBody.model_validate_json(body).message
    finally:
        stopped(process)


def test_clients_that_fall_silent_are_let_go_with_an_answer(impatient):
    """Twice as many of them as there are threads, some with half a head, some with half a body."""
    base, admin, _ = impatient
    address = urlsplit(base)
    body = f"POST /v1/detect HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {admin}\r\n"
    body += "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
    silent = []
    try:
        for start in [b"GET / HT", body.encode()] * 4:
            connection = socket.create_connection((address.hostname, address.port), timeout=30)
            connection.sendall(start)
            silent.append(connection)
        assert requests.get(f"{base}/healthz", timeout=30).json()["status"] == "ok"
        answers = [connection.makefile("rb").read() for connection in silent]
        assert {answer[:13] for answer in answers} == {b"HTTP/1.1 408 "}
        assert {json.loads(answer.partition(b"\r\n\r\n")[2])["code"] for answer in answers} == {
            "request_timeout"
        }
    finally:
        for connection in silent:
            connection.close()


def test_a_stop_ends_open_streams_and_leaves_cleanly(tmp_path):
    data = tmp_path / "data"
    admin = key(data, "admin")
    process, base = started(data, tmp_path / "log")
    ended = threading.Event()
    headers = {"Authorization": f"Bearer {admin}"}
    stream = requests.get(f"{base}/v1/events/stream", headers=headers, stream=True, timeout=30)

    def read():
        for _ in stream.iter_content(64):
            pass
        ended.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert stopped(process) == 0
    assert ended.wait(10)
    reader.join()
    stream.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_both_signals_end_the_server_with_status_0(tmp_path, number):
    process, base = started(tmp_path / "data", tmp_path / "log", start=subprocess.Popen)
    assert requests.get(f"{base}/healthz", timeout=10).json()["status"] == "ok"
    assert stopped(process, number) == 0


def test_without_a_key_the_server_says_how_to_make_one(tmp_path):
    process, _ = started(tmp_path / "data", tmp_path / "log")
    try:
        text = process.stdout.readline() + process.stdout.readline()
    finally:
        stopped(process)
    assert "match-server key create" in text


def test_an_open_page_on_an_outer_address_does_not_start(tmp_path):
    command = [MATCH_SERVER, "serve", "--host", "0.0.0.0", "--open-page"]
    result = run([*command, "--data-dir", str(tmp_path / "data")], check=False)
    assert result.returncode == 1
    assert "open_page" in result.stderr
