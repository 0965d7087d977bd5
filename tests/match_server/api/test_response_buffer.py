"""Verdicts of a batch whose client reads none of them before it has sent everything."""

import os
import re
import socket
import subprocess

import pytest
import requests

from match_server.api.client_connection import can_take
from match_server.api.response_buffer import buffered
from match_server.process.client_socket import ClientSocket, SlowClients
from tests.support.launcher import MATCH_SERVER, Launched
from tests.support.serving import key

PIECES = [bytes([number % 256]) * 30_000 for number in range(300)]  # 9 MB


def test_a_client_that_takes_everything_gets_each_piece_at_once(tmp_path):
    pieces = iter(PIECES[:3])
    response = buffered(pieces, lambda: True, tmp_path)
    assert next(response)[:1] == PIECES[0][:1]
    assert len(list(pieces)) == 2
    assert b"".join(response) == PIECES[0][4096:]


def test_all_comes_in_order_whenever_it_is_taken(tmp_path):
    calls = iter(range(10**9))
    for can_take_now in (lambda: False, lambda: next(calls) % 7 > 3, lambda: True):
        assert b"".join(buffered(PIECES, can_take_now, tmp_path)) == b"".join(PIECES)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_given_to_a_client_that_takes_nothing_until_all_has_come(tmp_path):
    read_pieces = []
    response = buffered(
        (read_pieces.append(number) or piece for number, piece in enumerate(PIECES)),
        lambda: False,
        tmp_path,
    )
    next(response)
    assert len(read_pieces) == len(PIECES)


def test_the_buffer_is_limited(tmp_path):
    read_pieces = []
    response = buffered(
        (read_pieces.append(number) or piece for number, piece in enumerate(PIECES)),
        lambda: False,
        tmp_path,
        max_bytes=100_000,
    )
    assert len(next(response)) > 0
    assert len(read_pieces) == 4
    assert len(b"".join(response)) == sum(map(len, PIECES)) - 4096


def test_a_connection_takes_what_fits_without_waiting():
    local, remote = socket.socketpair()
    with local, remote:
        local.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        local.setblocking(False)
        client = ClientSocket(local, 1.0, SlowClients(1))
        takes = can_take({"gunicorn.socket": client})
        sent = 0
        while takes():
            client.sendall(bytes(4096))
            assert client.unsent == 0  # else the thread would have had to wait
            sent += 4096
        assert sent >= 4096
        while sent:
            sent -= len(remote.recv(65_536))
        assert takes()
    assert can_take({})()


@pytest.fixture
def server(tmp_path):
    """The address of a real server with a client timeout of 1 s, and a key."""
    data = ["--data-dir", str(tmp_path / "data")]
    admin = key(tmp_path / "data", "admin")
    command = [MATCH_SERVER, "serve", "--port", "0", *data]
    process = Launched(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MUSTER_CLIENT_TIMEOUT_S": "1"},
    )
    try:
        line = process.stdout.readline().decode()
        yield re.search(r"http://[\d.:]+", line)[0], admin
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


def test_a_client_that_reads_after_sending_everything_gets_every_verdict(server):
    """Body and verdicts are larger than all buffers between client and server."""
    address, key = server
    count = 60_000
    line = b'{"name": "%s"}\n' % (b"x" * 400)
    response = requests.post(
        f"{address}/v1/collections/default/enroll",
        data=line * count,
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/x-ndjson"},
        timeout=120,
    )
    assert response.content.count(b'"status":"refused"') == count
    assert response.content.count(b"\n") == count
