"""The outbox: numbers without gaps, limits, a full disk, and kills at any moment."""

import base64
import contextlib
import json
import logging
import os
import random
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.outbox.outbox import Outbox
from edge_agent.vision.probe import Probe
from shared.clock import SystemClock
from shared.encryption import OVERHEAD_BYTES, Key
from shared.errors import ConfigurationError
from shared.wire.messages import ProbeMessage, ProbeReceipt
from shared.wire.template import encode_template
from tests.support.disks import small_disk
from tests.support.probes import DEVICE, make_probe

ROOT = Path(__file__).parents[3]

Probes = Callable[[int], list[Probe]]


class StandingClock(SystemClock):
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.at_s = 0.0

    def monotonic_s(self) -> float:
        return self.at_s


def sequences(outbox: Outbox) -> list[int]:
    return [one.sequence for one in outbox.pending(10_000, 1 << 40)]


def test_what_is_put_is_the_wire_contracts_message(outbox: Outbox) -> None:
    probe = make_probe(thumbnail=b"\xff\xd8\xff\xe0 a picture")
    outbox.put([probe])
    (stored,) = outbox.pending()
    message = ProbeMessage.model_validate_json(stored.body)
    assert message == probe.message(DEVICE, 1)
    assert (message.device, message.sequence, message.probe_id) == (DEVICE, 1, stored.probe_id)
    assert message.thumbnail_jpeg == probe.thumbnail


def test_numbers_go_on_after_everything_was_acknowledged_and_the_box_restarted(
    tmp_path: Path, probes: Probes
) -> None:
    for round_ in range(3):
        outbox = Outbox(tmp_path / "outbox.db", DEVICE)
        outbox.put(probes(2))
        assert sequences(outbox) == [2 * round_ + 1, 2 * round_ + 2]
        outbox.acknowledge([one.probe_id for one in outbox.pending()])
        assert outbox.pending() == []
        outbox.close()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(1, 4)),
            st.tuples(st.just("acknowledge"), st.integers(0, 5)),
            st.tuples(st.just("refuse"), st.integers(0, 5)),
            st.tuples(st.just("reopen"), st.just(0)),
        ),
        max_size=25,
    )
)
def test_it_behaves_like_a_list_that_forgets_its_oldest(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    path = tmp_path_factory.mktemp("outbox") / "outbox.db"
    size = len(make_probe().message(DEVICE, 10).model_dump_json(exclude_none=True))
    limit = size * 6
    outbox = Outbox(path, DEVICE, max_bytes=limit)
    model: list[int] = []
    put = acknowledged = refused = dropped = 0
    for step, count in steps:
        waiting = outbox.pending(10_000, 1 << 40)
        if step == "put":
            outbox.put([make_probe() for _ in range(count)])
            model += range(put + 1, put + count + 1)
            put += count
            bytes_of = {one.sequence: len(one.body) for one in outbox.pending(10_000, 1 << 40)}
            kept = [number for number in model if number in bytes_of]
            dropped += len(model) - len(kept)
            assert kept == model[len(model) - len(kept) :], "the oldest go first"
            assert sum(bytes_of.values()) <= limit
            model = kept
        elif step == "reopen":
            outbox.close()
            outbox = Outbox(path, DEVICE, max_bytes=limit)
        elif count < len(waiting):
            status = "accepted" if step == "acknowledge" else "refused"
            outbox.settle([ProbeReceipt(probe_id=waiting[count].probe_id, status=status)])
            model.remove(waiting[count].sequence)
            acknowledged += step == "acknowledge"
            refused += step == "refuse"
        assert sequences(outbox) == model
        counts = outbox.counts()
        assert (counts.put, counts.acknowledged, counts.refused, counts.dropped) == (
            put,
            acknowledged,
            refused,
            dropped,
        )
        assert counts.waiting == len(model)
        assert put == acknowledged + refused + dropped + len(model), "every number is accounted for"
    outbox.close()


def test_a_batch_is_bounded_but_never_empty(outbox: Outbox, probes: Probes) -> None:
    outbox.put(probes(5))
    one = len(outbox.pending(1)[0].body)
    assert [len(outbox.pending(limit)) for limit in (1, 3, 9)] == [1, 3, 5]
    assert len(outbox.pending(9, max_bytes=1)) == 1
    assert len(outbox.pending(9, max_bytes=2 * one + 10)) == 2


@pytest.fixture(params=["page count", "tmpfs"])
def full_disk(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[Outbox, StandingClock, Callable[[], None]]]:
    """Yields an outbox on a nearly full disk, its clock, and a function that frees space."""
    clock = StandingClock()
    if request.param == "page count":
        outbox = Outbox(tmp_path / "outbox.db", DEVICE, clock=clock)
        connection = outbox._file.connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 20}")
        yield outbox, clock, lambda: connection.execute("PRAGMA max_page_count = 1000000").close()
        outbox.close()
        return
    with small_disk(tmp_path / "small", kilobytes=300) as disk:
        outbox = Outbox(disk.folder / "outbox.db", DEVICE, clock=clock)
        yield outbox, clock, lambda: disk.remount("size=100m")
        outbox.close()


def test_a_full_disk_is_said_once_and_what_came_meanwhile_is_stored_later(
    full_disk: tuple[Outbox, StandingClock, Callable[[], None]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    outbox, clock, make_room = full_disk
    made = [make_probe(seed=seed) for seed in range(200)]
    stored = 0
    for probe in made:
        clock.at_s += 1.0
        stored += outbox.put([probe])
    counts = outbox.counts()
    assert 0 < stored < len(made)
    assert counts.waiting == counts.put == stored
    assert counts.held == len(made) - stored
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert "takes nothing" in errors[0].getMessage()
    assert "full" in errors[0].getMessage()
    assert sequences(outbox) == list(range(1, stored + 1)), "what was stored can still be read"

    make_room()
    clock.at_s += 10
    assert outbox.retry() == len(made) - stored
    assert sequences(outbox) == list(range(1, len(made) + 1))
    assert [one.probe_id for one in outbox.pending(1000, 1 << 40)] == [one.probe_id for one in made]
    assert any("works again" in record.getMessage() for record in caplog.records)


def test_on_a_full_disk_an_acknowledged_probe_does_not_come_back(
    full_disk: tuple[Outbox, StandingClock, Callable[[], None]],
) -> None:
    outbox, clock, make_room = full_disk
    while outbox.put([make_probe()]):
        clock.at_s += 1.0
    first = outbox.pending(3)
    outbox.acknowledge([one.probe_id for one in first])
    assert not {one.probe_id for one in first} & {one.probe_id for one in outbox.pending(1000)}
    assert outbox.counts().acknowledged == 3
    make_room()
    clock.at_s += 10
    outbox.retry()
    assert not {one.probe_id for one in first} & {one.probe_id for one in outbox.pending(1000)}
    counts = outbox.counts()
    assert (counts.acknowledged, counts.held) == (3, 0)
    assert counts.waiting == counts.put - 3


def test_a_box_starts_on_an_already_full_disk_and_stores_when_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path / "small", kilobytes=300) as disk:
        ballast = disk.fill()
        clock = StandingClock()
        outbox = Outbox(disk.folder / "outbox.db", DEVICE, clock=clock)
        assert outbox.put([make_probe(seed=1)]) == 0
        assert (outbox.counts().held, outbox.counts().waiting, outbox.pending()) == (1, 0, [])
        assert "free some space" in str(outbox.trouble)
        ballast.unlink()
        clock.at_s += 10
        assert outbox.put([make_probe(seed=2)]) == 2
        assert sequences(outbox) == [1, 2]
        assert outbox.trouble is None
        assert sum("takes nothing" in one.getMessage() for one in caplog.records) == 1
        outbox.close()


def test_memory_is_bounded_while_the_disk_is_full(outbox: Outbox) -> None:
    outbox._file.connection.execute("PRAGMA query_only = ON")
    picture = b"\xff\xd8\xff" + bytes(60_000)
    for seed in range(200):
        outbox.put([make_probe(seed=seed % 3, thumbnail=picture)])
    counts = outbox.counts()
    assert counts.held + counts.dropped == 200
    assert counts.held * 80_000 <= 8 << 20
    outbox._file.connection.execute("PRAGMA query_only = OFF")
    outbox.retry()
    after = outbox.counts()
    assert (after.held, after.waiting, after.dropped) == (0, counts.held, counts.dropped)


def test_what_waited_too_long_is_dropped_and_counted(tmp_path: Path, probes: Probes) -> None:
    clock = StandingClock()
    outbox = Outbox(tmp_path / "outbox.db", DEVICE, max_age_s=3600, clock=clock)
    outbox.put(probes(3))
    clock.at_s = 3000
    outbox.put(probes(2))
    clock.at_s = 3700
    outbox.retry()
    assert sequences(outbox) == [4, 5]
    counts = outbox.counts()
    assert (counts.dropped, counts.waiting) == (3, 2)
    sealed = sum(len(one.body) + OVERHEAD_BYTES for one in outbox.pending(9))
    assert counts.waiting_bytes == sealed
    outbox.close()


def test_age_is_the_time_that_the_box_ran_whatever_the_clock_says(
    tmp_path: Path, probes: Probes, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = StandingClock()
    path = tmp_path / "outbox.db"
    before = Outbox(path, DEVICE, max_age_s=3600, clock=clock)
    before.put(probes(1))
    clock.at_s = 2000
    before.retry()
    before.close()
    # Switched off for a year, and the clock is a year ahead: none of that makes a probe old.
    clock.at_s = 0
    a_year_on = clock.now() + timedelta(days=365)
    monkeypatch.setattr(StandingClock, "now", lambda self: a_year_on)
    after = Outbox(path, DEVICE, max_age_s=3600, clock=clock)
    clock.at_s = 1000
    after.retry()
    assert sequences(after) == [1]
    clock.at_s = 1700
    after.retry()
    assert sequences(after) == []
    after.close()


WRITER = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from edge_agent.outbox.outbox import Outbox
    from tests.support.probes import make_probe
    outbox = Outbox(Path(sys.argv[1]), "box-1")
    while True:
        probes = [make_probe() for _ in range(1 + len(outbox.pending(3)) % 3)]
        outbox.put(probes)
        for probe in probes:
            print(probe.probe_id, flush=True)
        if len(outbox.pending(8)) == 8:
            gone = outbox.pending(2)
            outbox.acknowledge([one.probe_id for one in gone])
            for one in gone:
                print("-" + one.probe_id, flush=True)
    """
)


def test_kill_9_at_any_moment_loses_nothing_and_repeats_no_number(tmp_path: Path) -> None:
    (tmp_path / "writer.py").write_text(WRITER)
    path = tmp_path / "outbox.db"
    chance = random.Random(7)
    put: list[str] = []
    gone: set[str] = set()
    numbers: dict[str, int] = {}
    for _ in range(12):
        process = subprocess.Popen(
            [sys.executable, str(tmp_path / "writer.py"), str(path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        output = process.stdout or []
        for _, line in zip(range(chance.randint(1, 120)), output, strict=False):
            word = line.strip()
            gone.add(word[1:]) if word.startswith("-") else put.append(word)
        process.kill()
        rest, _ = process.communicate()
        for word in rest.splitlines():
            if len(word.lstrip("-")) == 36:
                gone.add(word[1:]) if word.startswith("-") else put.append(word)
        outbox = Outbox(path, DEVICE)
        waiting = {one.probe_id: one.sequence for one in outbox.pending(100_000, 1 << 40)}
        counts = outbox.counts()
        outbox.close()
        # Said to be stored means stored; at most the last step was done without being said.
        missing = [one for one in put if one not in waiting and one not in gone]
        assert len(missing) <= 2, "at most what was acknowledged in the killed step"
        for probe_id, number in waiting.items():
            assert numbers.setdefault(probe_id, number) == number
        assert len(set(numbers.values())) == len(numbers), "no number was given out twice"
        assert counts.put == max(numbers.values())
        assert counts.put == counts.acknowledged + counts.waiting
        gone.update(missing)
    check = sqlite3.connect(path)
    assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    check.close()


def test_a_damaged_file_is_kept_aside_and_the_box_goes_on(
    tmp_path: Path, probes: Probes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "outbox.db"
    path.write_bytes(b"this was a database once" * 400)
    outbox = Outbox(path, DEVICE)
    assert outbox.put(probes(1)) == 1
    outbox.close()
    assert len(list(tmp_path.glob("outbox.db.damaged-*"))) == 1
    assert any("damaged" in record.getMessage() for record in caplog.records)


def test_a_folder_that_cannot_be_made_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ConfigurationError, match="cannot be kept"):
        Outbox(tmp_path / "file" / "outbox.db", DEVICE)


def test_others_on_the_box_may_not_read_it(outbox: Outbox, probes: Probes) -> None:
    outbox.put(probes(1))
    for file in outbox._path.parent.glob("outbox.db*"):
        assert file.stat().st_mode & 0o077 == 0, file.name


def test_only_templates_and_what_the_contract_names_are_stored(
    outbox: Outbox, probes: Probes
) -> None:
    outbox.put(probes(1))
    assert set(json.loads(outbox.pending()[0].body)) <= set(ProbeMessage.model_fields)


@pytest.fixture
def small_tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    with small_disk(tmp_path / "small", kilobytes=2048) as disk:
        yield disk.folder


PICTURE = b"\xff\xd8\xff\xe0" + random.Random(4).randbytes(20_000)


def biometric(probe: Probe) -> list[bytes]:
    """Returns parts of the template and the picture, raw and as in a message."""
    raw = [probe.template.vector.astype("<f2").tobytes(), PICTURE]
    texts = [encode_template(probe.template).encode(), base64.b64encode(PICTURE)]
    return [one[start : start + 48] for one in (*raw, *texts) for start in (0, 300, 600)]


def files_with(folder: Path, parts: list[bytes]) -> list[str]:
    """Returns the names of the files that contain one of these."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return [file.name for file in files if any(part in file.read_bytes() for part in parts)]


def as_before(path: Path, count: int) -> list[Probe]:
    """Makes an outbox of an older version: in plain text, with some probes delivered."""
    probes = [make_probe(seed=seed, thumbnail=PICTURE) for seed in range(count)]
    outbox = Outbox(path, DEVICE)
    outbox.put(probes)
    outbox.close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA secure_delete = OFF")
        for sequence, probe in enumerate(probes, start=1):
            body = probe.message(DEVICE, sequence).model_dump_json(exclude_none=True).encode()
            connection.execute("UPDATE probe SET body = ? WHERE sequence = ?", (body, sequence))
        connection.execute("DELETE FROM probe WHERE sequence <= 2")
        connection.execute("UPDATE tally SET bytes = (SELECT sum(length(body)) FROM probe)")
        connection.execute("PRAGMA user_version = 1")
    (path.parent / "gallery.key").unlink()
    return probes


def test_no_template_and_no_picture_rests_in_the_clear_before_delivery_or_after(
    tmp_path: Path,
) -> None:
    clock = StandingClock()
    outbox = Outbox(tmp_path / "outbox.db", DEVICE, clock=clock)
    probe = make_probe(seed=3, thumbnail=PICTURE)
    outbox.put([probe])
    assert (tmp_path / "outbox.db-wal").stat().st_size > 20_000
    assert files_with(tmp_path, biometric(probe)) == []
    with contextlib.closing(sqlite3.connect(tmp_path / "outbox.db")) as reader:
        (sealed,) = reader.execute("SELECT body FROM probe").fetchone()
    assert files_with(tmp_path, [sealed[1000:1032]]) == ["outbox.db-wal"]
    outbox.acknowledge([probe.probe_id])
    clock.at_s = 11.0
    outbox.retry()  # as delivery does every other second
    assert files_with(tmp_path, [sealed[1000:1032], *biometric(probe)]) == []
    outbox.close()


def test_an_outbox_from_before_is_taken_over_and_nothing_of_it_is_left_in_the_clear(
    tmp_path: Path,
) -> None:
    path = tmp_path / "outbox.db"
    probes = as_before(path, 250)
    assert files_with(tmp_path, biometric(probes[0])) == ["outbox.db"], "deleted, and still there"
    outbox = Outbox(path, DEVICE)
    for probe in (probes[0], probes[2], probes[-1]):
        assert files_with(tmp_path, biometric(probe)) == []
    stored = outbox.pending(1000, 1 << 40)
    assert [one.probe_id for one in stored] == [one.probe_id for one in probes[2:]]
    for one in stored[:3]:
        assert ProbeMessage.model_validate_json(one.body).sequence == one.sequence
    counts = outbox.counts()
    assert (counts.put, counts.waiting) == (250, 248)
    assert counts.waiting_bytes == sum(len(one.body) + OVERHEAD_BYTES for one in stored)
    outbox.close()


def test_where_there_is_no_room_an_outbox_from_before_is_delivered_and_taken_over_later(
    small_tmpfs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = small_tmpfs / "outbox.db"
    probes = as_before(path, 12)
    filler = small_tmpfs / "somebody else's"
    free = os.statvfs(small_tmpfs)
    filler.write_bytes(bytes(free.f_bavail * free.f_frsize - 160 * 1024))
    outbox = Outbox(path, DEVICE)
    assert [one.probe_id for one in outbox.pending()] == [one.probe_id for one in probes[2:]]
    assert "stay unencrypted until the next start" in caplog.text
    outbox.close()
    filler.unlink()
    again = Outbox(path, DEVICE)
    assert len(again.pending()) == 10
    assert files_with(small_tmpfs, biometric(probes[4])) == []
    again.close()


def test_probes_under_a_key_that_is_gone_wait_for_it_and_stand_before_no_others(
    tmp_path: Path,
) -> None:
    path, key = tmp_path / "outbox.db", tmp_path / "gallery.key"
    first = Outbox(path, DEVICE)
    first.put([make_probe(seed=seed) for seed in range(50)])
    first.close()
    old = key.read_text()
    key.write_text(Key.new().text)
    other = Outbox(path, DEVICE)
    other.put([make_probe(seed=99)])
    assert sequences(other) == [51]
    assert other.trouble is not None
    assert "50 probes" in other.trouble
    assert "another key" in other.trouble
    other.close()
    key.write_text(f"{key.read_text()}\n{old}")
    both = Outbox(path, DEVICE)
    assert sequences(both) == list(range(1, 52))
    assert both.trouble is None
    both.close()


def test_a_probe_that_was_put_in_anothers_place_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    outbox = Outbox(path, DEVICE)
    outbox.put([make_probe(seed=seed) for seed in range(3)])
    outbox.close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(
            "UPDATE probe SET body = (SELECT body FROM probe WHERE sequence = 1) WHERE sequence = 2"
        )
    again = Outbox(path, DEVICE)
    assert sequences(again) == [1, 3]
    again.close()
