"""A hostile server: calls end in time, within memory limits, and do not leak the key."""

import gzip
import itertools
import json
import socket
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from edge_agent.config.timeouts import Timeouts
from edge_agent.delivery.http import HttpTransport
from edge_agent.delivery.http_session import ServerSession
from edge_agent.fleet.clock_offset import ClockOffset
from edge_agent.fleet.enrollment import enroll
from edge_agent.fleet.remote_config import Configurations
from edge_agent.fleet.server_link import HttpLink
from edge_agent.gallery.feed_client import FeedClient
from edge_agent.outbox.records import StoredProbe
from shared.clock import SystemClock
from shared.enrollment_code import Invitation
from shared.errors import ConfigurationError, MusterError
from shared.wire.device import DesiredConfig, HealthMessage
from tests.attacks.mqtt import valid_messages
from tests.support.probes import DEVICE, make_probe

KEY = "muster_0a1b2c_the-key-of-this-box"
TIMEOUTS = Timeouts(connect_s=1.0, silence_s=1.0, request_s=1.5)
LONGEST_S = 8.0  # that a silent server holds on to its caller
MEBIBYTE = 1024 * 1024

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
Send = Callable[[bytes], None]


def _endless_body(send: Send) -> None:
    send(CHUNKED)
    while True:
        send(b"10000\r\n" + b" " * 0x10000 + b"\r\n")


def _endless_line(send: Send) -> None:
    send(OK + b"Content-Length: 99999999999\r\n\r\n")
    while True:
        send(b"[" * 0x10000)


@cache
def _compressed() -> bytes:
    """Returns 64 MiB in 64 KiB, made without the whole in memory."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = b" " * MEBIBYTE
    return b"".join(packer.compress(block) for _ in range(64)) + packer.flush()


def _bomb(send: Send) -> None:
    bomb = _compressed()
    send(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb) + bomb)


def _bomb_in_layers(send: Send) -> None:
    bomb = gzip.compress(_compressed())  # a few hundred bytes
    head = b"Content-Encoding: gzip, gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    send(OK + head + bomb)


def _drip(send: Send) -> None:
    send(OK + b"Content-Length: 1000\r\n\r\n")
    while True:
        send(b" ")
        time.sleep(0.1)


def _dripped_head(send: Send) -> None:
    for byte in itertools.chain(OK, itertools.repeat(ord("x"))):
        send(bytes([byte]))
        time.sleep(0.02)


def _endless_head(send: Send) -> None:
    send(OK)
    for number in itertools.count():
        send(b"X-%d: %s\r\n" % (number, b"y" * 1000))


def _continues(send: Send) -> None:
    while True:
        send(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.01)


def _silence(send: Send) -> None:
    time.sleep(LONGEST_S)


def _no_http(send: Send) -> None:
    send(b"\x00\xff SSH-2.0\r\n\r\n")


def _sends(body: bytes, status: bytes = b"200 OK") -> Callable[[Send], None]:
    def say(send: Send) -> None:
        send(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))

    return say


MANNERS: dict[str, Callable[[Send], None]] = {
    "a body without end": _endless_body,
    "one line without end": _endless_line,
    "a bomb": _bomb,
    "a bomb in layers": _bomb_in_layers,
    "byte by byte": _drip,
    "a head byte by byte": _dripped_head,
    "a head without end": _endless_head,
    "100 Continue for ever": _continues,
    "silence": _silence,
    "no HTTP": _no_http,
    "nested without end": _sends(b"[" * 100_000),
    "half of a surrogate pair": _sends(rb'{"probes": [{"probe_id": "\ud800", "status": "x"}]}'),
    "wrong types": _sends(b'{"probes": 3, "config": [], "revision": "x", "kind": null}'),
    "a number of 5,000 digits": _sends(b'{"probes": [], "revision": ' + b"9" * 5000 + b"}"),
    "a refusal of wrong types": _sends(b'{"code": [], "message": {}}', b"409 Conflict"),
    "a pause without end": _sends(b"{}", b"503 No\r\nRetry-After: " + b"9" * 400),
}

SLOW = ("byte by byte", "a head byte by byte", "100 Continue for ever", "silence")


class Hostile:
    """A server with one kind of response; it counts requests by key."""

    def __init__(self, manner: Callable[[Send], None]) -> None:
        self.keys: list[bytes] = []
        self._manner = manner
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                caller, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(caller,), daemon=True).start()

    def _answer(self, caller: socket.socket) -> None:
        with closing(caller), suppress(OSError):
            caller.settimeout(LONGEST_S)
            head = b""
            while b"\r\n\r\n" not in head:
                head += caller.recv(65_536) or b"\r\n\r\n"
            self.keys += [line for line in head.split(b"\r\n") if KEY.encode() in line]
            self._manner(caller.sendall)


@pytest.fixture
def hostile() -> Iterator[Callable[[Callable[[Send], None]], Hostile]]:
    made: list[Hostile] = []

    def make(manner: Callable[[Send], None]) -> Hostile:
        made.append(Hostile(manner))
        return made[-1]

    yield make
    for one in made:
        one.close()


def probe() -> StoredProbe:
    made = make_probe()
    body = made.message(DEVICE, 1).model_dump_json(exclude_none=True).encode()
    return StoredProbe(1, made.probe_id, body)


def calls_of(url: str, tmp_path: Path) -> dict[str, Callable[[], Any]]:
    """Returns all requests of a device to a server, by name."""
    session = ServerSession(url, KEY, timeouts=TIMEOUTS)
    link = HttpLink(session, DEVICE, ClockOffset(SystemClock()))
    clock = SystemClock()
    health = HealthMessage.model_validate(valid_messages(DEVICE, clock.now())["health"])
    feed = FeedClient(url, KEY, DEVICE, keep_h=1, timeouts=TIMEOUTS)

    def snapshot() -> None:
        with feed.snapshot("default", 0) as (_, parts):
            for _ in parts:
                pass

    def enrolled() -> None:
        folder = tmp_path / url.rpartition(":")[2]
        enroll(
            Invitation(url, "ABCD1234"),
            config=folder / "agent.toml",
            state_dir=folder,
            source="0",
            timeouts=TIMEOUTS,
        )

    return {
        "probes": lambda: HttpTransport(url, KEY, timeouts=TIMEOUTS).exchange([probe()]),
        "health": lambda: link.send_health(health),
        "changes": lambda: feed.changes("default", 0, "scope", 0.0),
        "snapshot": snapshot,
        "enroll": enrolled,
    }


def outcome(call: Callable[[], Any]) -> tuple[float, str]:
    """Returns the duration, and the result or the error as text."""
    began_s = time.monotonic()
    try:
        text = repr(call())
    except MusterError as error:
        text = f"error: {error.message}"
    return time.monotonic() - began_s, text


def test_whatever_it_answers_each_call_ends_in_time_with_a_sentence(
    hostile: Callable[..., Hostile], tmp_path: Path
) -> None:
    jobs = []
    with ThreadPoolExecutor(40) as pool:  # those that take their whole time, side by side
        for manner, answer in MANNERS.items():
            calls = calls_of(hostile(answer).url, tmp_path)
            if manner in SLOW:
                calls.pop("snapshot")  # which has an hour, and is cut where it is silent
            run = pool.submit if manner in SLOW else lambda work, call: work(call)
            jobs += [(manner, name, run(outcome, call)) for name, call in calls.items()]
        for manner, name, job in jobs:
            took_s, text = job.result(60) if isinstance(job, Future) else job
            assert took_s < 30, (manner, name, took_s)  # of 1.5 s, on a busy machine
            # A refusal of probes may have any text; everything else must be an error.
            refused = manner == "a refusal of wrong types" and name == "probes"
            assert text.startswith("error: ") or refused, (manner, name, text)


@pytest.mark.parametrize("manner", ["a bomb", "a bomb in layers", "a body without end"])
def test_nothing_that_it_sends_fills_the_memory(
    hostile: Callable[..., Hostile], manner: str, tmp_path: Path
) -> None:
    calls = calls_of(hostile(MANNERS[manner]).url, tmp_path)
    for name in ("probes", "health", "changes", "enroll"):
        tracemalloc.start()
        try:
            with pytest.raises(MusterError):
                calls[name]()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        most = 160 if name == "changes" and "body" in manner else 24  # a long feed is no attack
        assert peak < most * MEBIBYTE, (name, peak)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_takes_the_key_nowhere(
    hostile: Callable[..., Hostile], status: int, tmp_path: Path
) -> None:
    elsewhere = hostile(_sends(b"{}"))
    line = b"%d Moved\r\nLocation: %s/v1/probes" % (status, elsewhere.url.encode())
    server = hostile(_sends(b"", line))
    for name, call in calls_of(server.url, tmp_path).items():
        with pytest.raises(MusterError):
            call()
        assert len(server.keys) > 0 or name == "enroll"
    assert elsewhere.keys == []


def test_a_configuration_leads_it_to_no_file_or_program_of_the_box(tmp_path: Path) -> None:
    own = tmp_path / "agent.toml"
    secret = tmp_path / "secret"
    secret.write_text("the password")
    own.write_text(
        f'state_dir = "{tmp_path}/state"\n'
        f'[[cameras]]\nname = "door"\nsource = "rtsp://10.0.0.9/1"\n'
        f'username = "a"\npassword_file = "{secret}"\n'
    )
    configurations = Configurations(own, SystemClock())
    camera = {"name": "door", "source": "rtsp://10.0.0.9/1"}
    login = {"username": "a", "password_file": str(secret)}
    for config in (
        {"state_dir": "/"},
        {"server": {"url": "http://elsewhere"}},
        {"broker": {"url": "mqtt://elsewhere"}},
        {"device": "door-2"},
        {"fleet": {"remote": True}},
        {"gallery": {"hook": ["sh", "-c", "true"]}},
        {"gallery": {"key_file": str(secret)}},
        {"cameras": [{**camera, **login, "source": "rtsp://elsewhere/1"}]},  # takes it there
        {"cameras": [{**camera, **login, "password_file": "/etc/shadow"}]},
        {"cameras": [{**camera, "source": "filesrc location=/etc/passwd ! fakesink"}]},
        {"cameras": [{**camera, "ca_file": "/nowhere"}]},
        {"cameras": "door"},
        {"cameras": []},
        {"models": {"pack": 5}},
        {"log_level": "../../x"},
        {"": {}},
        {"a.b": [[[[1]]]]},
    ):
        with pytest.raises(ConfigurationError):
            configurations.settings_with(DesiredConfig(revision=1, config=config))


def test_a_pack_is_a_name_and_no_path(tmp_path: Path) -> None:
    from edge_agent.config.loading import settings_of
    from edge_agent.fleet.config_dry_run import problem_of

    camera = {"name": "door", "source": "none.mp4"}
    current = settings_of({"state_dir": tmp_path, "cameras": [camera]})
    for pack in ("../../../etc", "/etc", "http://elsewhere/pack", "compact/../x", "a\nb"):
        table = {"state_dir": str(tmp_path), "cameras": [camera], "models": {"pack": pack}}
        dry_run_request = {
            "table": table,
            "cameras": [one.model_dump_json() for one in current.cameras],
            "models": current.models.model_dump_json(),
        }
        problem = problem_of(json.loads(json.dumps(dry_run_request, default=str)))
        assert problem is not None
        assert "no pack" in problem or "known" in problem, problem
