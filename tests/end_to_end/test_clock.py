"""The real agent while its clock jumps a day back and a year ahead."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edge_agent.outbox.outbox import Outbox
from tests.end_to_end.conftest import RunningServer
from tests.support.serving import key as create_key
from tests.support.waiting import end_of, wait_until
from tests.support.webcam import Webcam

pytestmark = pytest.mark.models
DEVICE = "box-1"
WAIT_S = 120.0


@pytest.fixture
def faketime() -> Path:
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not libraries:
        pytest.skip("faketime is not installed (Debian: apt-get install faketime)")
    return libraries[0]


def arrived(server: RunningServer) -> list[tuple[int, datetime]]:
    """Returns number and time of capture of the server's probes."""
    database = sqlite3.connect(server.data / "muster.db")
    try:
        rows = database.execute(
            "SELECT sequence, captured_at FROM probes ORDER BY sequence"
        ).fetchall()
    finally:
        database.close()
    return [(number, datetime.fromisoformat(at).replace(tzinfo=UTC)) for number, at in rows]


def test_a_clock_that_jumps_costs_no_probe_and_opens_no_door(
    running_server: RunningServer, passers_by: Webcam, faketime: Path, tmp_path: Path
) -> None:
    key, clock, log = (tmp_path / name for name in ("key", "clock", "agent.log"))
    key.write_text(create_key(running_server.data, "device", DEVICE))
    config = tmp_path / "agent.toml"
    config.write_text(
        f'device = "{DEVICE}"\nstate_dir = "{tmp_path}/state"\n'
        f'[shots]\ngate = "off"\nkeep_missed_s = 0.5\n'
        f'[[cameras]]\nname = "door"\nsource = "{passers_by.url}"\n'
        f'[server]\nurl = "{running_server.url}"\nkey_file = "{key}"\n'
    )
    clock.write_text("+0")
    environment = {
        **os.environ,
        "LD_PRELOAD": str(faketime),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1",  # nor does a real jump touch it
    }
    with log.open("wb") as output:
        agent = subprocess.Popen(
            [sys.executable, "-m", "edge_agent.cli.main", "run", "--config", str(config)],
            env=environment,
            stdout=output,
            stderr=output,
        )

    def wait_for_probe(matches: Callable[[timedelta], bool], what: str) -> None:
        ended = lambda: agent.poll() is not None  # noqa: E731
        arrives = lambda: any(matches(at - datetime.now(UTC)) for _, at in arrived(running_server))  # noqa: E731
        wait_until(lambda: ended() or arrives(), what, WAIT_S, details=lambda: end_of(log))
        assert not ended(), end_of(log)

    try:
        wait_for_probe(lambda offset: abs(offset) < timedelta(hours=1), "a probe of today")
        clock.write_text("-1d")
        wait_for_probe(lambda offset: offset < timedelta(hours=-23), "a probe of yesterday")
        clock.write_text("+365d")
        wait_for_probe(lambda offset: offset > timedelta(days=364), "a probe of next year")
        clock.write_text("+0")
        before = len(arrived(running_server))
        wait_for_probe(lambda _: len(arrived(running_server)) > before, "another probe")
    finally:
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(30) == 0, end_of(log)
    assert "Traceback" not in log.read_text()

    numbers = [number for number, _ in arrived(running_server)]
    outbox = Outbox(tmp_path / "state" / f"outbox-{DEVICE}.db", DEVICE)
    rest = [one.sequence for one in outbox.pending()]
    counts = outbox.counts()
    outbox.close()
    assert sorted({*numbers, *rest}) == list(range(1, counts.put + 1))
    assert counts.dropped == 0
    assert live_events_are_of_today(running_server)


def live_events_are_of_today(server: RunningServer) -> bool:
    """Returns whether every live event was captured now."""
    session = server.session("viewer")
    events = session.get(f"{server.url}/v1/events?size=100", timeout=30).json()["items"]
    taken = [datetime.fromisoformat(one["captured_at"]) for one in events if one["live"]]
    return len(events) >= 3 and all(
        abs(at - datetime.now(UTC)) < timedelta(hours=1) for at in taken
    )
