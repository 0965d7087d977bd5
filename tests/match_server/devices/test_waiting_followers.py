"""A real server with few threads: many followers wait without holding a thread."""

import json
import selectors
import signal
import socket
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from urllib.parse import urlsplit

import pytest

from tests.support.serving import MODEL, Client, key, started, stopped

WAITING = 48


class Followers:
    """Connections to one server that each wait for a change."""

    def __init__(self, client):
        self._address = urlsplit(client.base)
        self._headers = f"Host: x\r\nAuthorization: {client.headers['Authorization']}\r\n\r\n"
        self.connections = []

    def wait_for(self, since, wait_s=30.0):
        address = self._address.hostname, self._address.port
        connection = socket.create_connection(address, timeout=30)
        path = f"/v1/changes?collection=default&since={since}&wait={wait_s}"
        connection.sendall(f"GET {path} HTTP/1.1\r\n{self._headers}".encode())
        self.connections.append(connection)

    def silent(self, for_s):
        """Whether no connection gets a response for so long."""
        with selectors.DefaultSelector() as selector:
            for connection in self.connections:
                selector.register(connection, selectors.EVENT_READ)
            return not selector.select(for_s)

    def answers(self):
        """The changes that each connection receives."""
        return [json.loads(_body(connection)) for connection in self.connections]

    def close(self):
        for connection in self.connections:
            connection.close()


def _body(connection):
    """The body of one response with a Content-Length."""
    with connection.makefile("rb") as stream:
        length = 0
        while line := stream.readline().strip():
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        return stream.read(length)


@contextmanager
def serving(folder):
    data = folder / "data"
    admin = key(data, "admin")
    process, base = started(data, folder / "log", "--threads", "4")
    try:
        yield Client(base, admin), process
    finally:
        if process.poll() is None:
            assert stopped(process) == 0


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """One server for all tests of this file but the last, as it takes seconds to start."""
    with serving(tmp_path_factory.mktemp("server")) as (client, _):
        yield client


@pytest.fixture
def followers(client):
    made = Followers(client)
    yield made
    made.close()


def test_waiting_followers_hold_no_thread_and_are_told_at_once(client, followers, helpers):
    text = helpers.encode(helpers.unit_vector(1))
    _, seq = client.person("Ann", text)
    for _ in range(WAITING):
        followers.wait_for(seq)
    assert followers.silent(0.3)
    for gone in followers.connections[::6]:  # devices without power: they block no other
        gone.close()
    followers.connections = [one for one in followers.connections if one.fileno() >= 0]
    for _ in range(8):
        assert client.search(text)["probes"][0]["person"]["name"] == "Ann"
    assert client("GET", "/v1/snapshot?collection=default").status_code == 200
    assert followers.silent(0)
    _, newest = client.person("Bob", helpers.encode(helpers.unit_vector(2)))
    committed_s = time.monotonic()
    numbers = [changes["seq"] for changes in followers.answers()]
    took_s = time.monotonic() - committed_s
    assert len(numbers) == WAITING - WAITING // 6
    assert all(seq < one <= newest for one in numbers)
    assert took_s < 5  # 2 s on a machine that does nothing else
    assert client.search(text)["probes"][0]["person"]["name"] == "Ann"


def test_a_wait_ends_in_time_with_nothing_and_the_connection_is_kept(client, followers):
    _, seq = client.person("Ann", None)
    followers.wait_for(seq, wait_s=0.2)
    (connection,) = followers.connections
    began_s = time.monotonic()
    assert json.loads(_body(connection))["seq"] == seq
    assert time.monotonic() - began_s < 5
    connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert json.loads(_body(connection))["status"] == "ok"


def test_what_a_client_sends_while_it_waits_is_answered_afterwards(client, followers):
    _, seq = client.person("Ann", None)
    followers.wait_for(seq)
    assert followers.silent(0.1)
    (connection,) = followers.connections
    connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    client.person("Bob", None)
    with connection.makefile("rb") as stream:
        answers = stream.read()
    assert answers.count(b"HTTP/1.1 200 ") == 2
    assert answers.index(b'"gallery"') < answers.index(b'"status":"ok"')


def test_open_event_streams_hold_no_thread_and_tell_each_sighting(client, helpers):
    streams = [client("GET", "/v1/events/stream", stream=True) for _ in range(12)]
    try:
        lines = [stream.iter_lines() for stream in streams]
        assert [next(each) for each in lines] == [b"retry: 2000"] * 12
        probe = helpers.probe_message(helpers.unit_vector(1), datetime.now(UTC), model_id=MODEL)
        assert client("POST", "/v1/probes", json=probe).status_code == 200
        event = client("GET", "/v1/events").json()["items"][0]["id"]
        for each in lines:
            data = next(line for line in each if line.startswith(b"data: "))
            assert json.loads(data[6:])["id"] == event
    finally:
        for stream in streams:
            stream.close()


def test_a_server_that_stops_answers_those_who_wait(tmp_path):
    with serving(tmp_path) as (client, process):
        followers = Followers(client)
        _, seq = client.person("Ann", None)
        for _ in range(8):
            followers.wait_for(seq)
        assert client("GET", "/healthz").status_code == 200  # the others were accepted before it
        assert followers.silent(0.1)
        process.send_signal(signal.SIGTERM)
        assert [changes["seq"] for changes in followers.answers()] == [seq] * 8
        followers.close()
        assert process.wait(20) == 0
        process.stdout.close()
