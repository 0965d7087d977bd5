"""Connections that send one request after the other, to a worker with two threads."""

import contextlib
import http.client
import json
import signal
import socket
import sqlite3
import threading
from collections import Counter
from urllib.parse import urlsplit

import pytest
import requests

from tests.attacks.clients import JSON, require_no_error
from tests.support.serving import key, started, stopped
from tests.support.waiting import wait_until

ASK = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


class _Peer:
    """A client's connection."""

    def __init__(self, base):
        address = urlsplit(base)
        self._socket = socket.create_connection((address.hostname, address.port), timeout=30)
        self._file = self._socket.makefile("rb")

    def send(self, data):
        self._socket.sendall(data)

    def response(self):
        """Reads one response; returns its status and its headers."""
        line = self._file.readline()
        assert line.startswith(b"HTTP/1.1 "), f"no response: {line!r}"
        headers = http.client.parse_headers(self._file)
        length = int(headers["Content-Length"])
        assert len(self._file.read(length)) == length
        return int(line.split()[1]), headers

    def is_served(self):
        self.send(ASK)
        return self.response()[0] == 200

    def is_closed_by_the_server(self):
        return self._file.read() == b""

    def close(self):
        self._file.close()
        self._socket.close()


@contextlib.contextmanager
def _peers(base, count):
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(contextlib.closing(_Peer(base))) for _ in range(count)]


@contextlib.contextmanager
def _two_threads(folder, client_timeout_s=300):
    options = ("--threads", "2", "--workers", "1")
    limits = {"MUSTER_CLIENT_TIMEOUT_S": str(client_timeout_s)}
    process, base = started(folder / "data", folder / "log", *options, **limits)
    try:
        yield process, base
    finally:
        stopped(process)
    require_no_error(folder / "log")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    with _two_threads(tmp_path_factory.mktemp("server")) as (_, address):
        yield address


def test_more_clients_than_threads_take_turns(base):
    with _peers(base, 8) as peers:
        for _ in range(20):
            for peer in peers:
                peer.send(ASK)
            assert {peer.response()[0] for peer in peers} == {200}


def test_clients_that_never_pause_leave_threads_to_others(base):
    ended = threading.Event()

    def send_on():
        with _peers(base, 1) as (peer,):
            while not ended.is_set():
                assert peer.is_served()

    busy = [threading.Thread(target=send_on) for _ in range(4)]
    for thread in busy:
        thread.start()
    try:
        with _peers(base, 1) as (kept,):
            for _ in range(20):
                assert kept.is_served()
                assert requests.get(f"{base}/healthz", timeout=30).status_code == 200
    finally:
        ended.set()
        for thread in busy:
            thread.join()


def test_half_a_request_after_a_response_holds_no_thread(base):
    with _peers(base, 5) as (other, *halting):
        for cut in (1, 20, len(ASK) - 1):
            for peer in halting:
                assert peer.is_served()
                peer.send(ASK[:cut])
            assert other.is_served()
            for peer in halting:
                peer.send(ASK[cut:])
                assert peer.response()[0] == 200


def test_requests_that_come_together_are_served_in_order(base):
    with _peers(base, 1) as (peer,):
        assert peer.is_served()
        peer.send(ASK + ASK.replace(b"healthz", b"nowhere") + ASK[:9])
        assert peer.response()[0] == 200
        assert peer.response()[0] == 404
        peer.send(ASK[9:])
        assert peer.response()[0] == 200


def test_clients_that_close_in_between_disturb_nobody(base):
    with _peers(base, 1) as (kept,):
        for rest in (b"", ASK[:7], ASK):
            for _ in range(20):
                with _peers(base, 1) as (leaving,):
                    assert leaving.is_served()
                    leaving.send(rest)
        assert kept.is_served()


def test_a_request_that_waits_for_a_thread_outlives_the_timeout_of_its_client(tmp_path):
    """One thread waits for a locked database, the other one for a body that does not go on."""
    admin = key(tmp_path / "data", "admin")
    head = f" HTTP/1.1\r\n{JSON}Authorization: Bearer {admin}\r\nContent-Length: "
    write = f"POST /v1/collections/default/persons{head}15\r\n\r\n" + '{"name":"Anna"}'
    upload = f"POST /v1/detect{head}1000000\r\n\r\n" + " " * 68_000
    with (
        _two_threads(tmp_path, client_timeout_s=1) as (_, base),
        _peers(base, 3) as (writing, sending, waiting),
        contextlib.closing(sqlite3.connect(tmp_path / "data" / "muster.db")) as locking,
    ):
        locking.execute("BEGIN IMMEDIATE")
        writing.send(write.encode())
        sending.send(upload.encode())
        waiting.send(ASK)
        assert waiting.response()[0] == 200
        assert sending.response()[0] == 408
        locking.rollback()
        assert writing.response()[0] == 201


def test_a_stop_serves_kept_connections_once_more_and_ends_in_time(tmp_path):
    with _two_threads(tmp_path) as (process, base), _peers(base, 2) as (peer, idle):
        assert idle.is_served()
        assert peer.is_served()
        process.send_signal(signal.SIGTERM)
        headers = {}
        while headers.get("Connection") != "close":  # until the worker has noticed the signal
            peer.send(ASK)
            status, headers = peer.response()
            assert status == 200
        assert peer.is_closed_by_the_server()
        assert idle.is_closed_by_the_server()
        assert process.wait(10) == 0


def test_connections_spread_over_the_workers(tmp_path):
    options = ("--threads", "2", "--workers", "2")
    process, base = started(tmp_path / "data", tmp_path / "log", *options)

    def requests_by_worker():
        lines = map(json.loads, (tmp_path / "log").read_text().splitlines())
        return Counter(entry["pid"] for entry in lines if entry["message"] == "request")

    def serve_many():
        with _peers(base, 40) as peers:
            assert {peer.is_served() for peer in peers} == {True}
        return requests_by_worker()

    try:
        before = wait_until(lambda: len(counts := serve_many()) == 2 and counts, "both workers")
        more = serve_many() - before
        assert min(more.values()) >= 10, more
        assert len(more) == 2
    finally:
        stopped(process)
