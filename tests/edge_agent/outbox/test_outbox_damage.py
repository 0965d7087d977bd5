"""The outbox on damaged disks and after changes by others: what can be read is delivered."""

import contextlib
import os
import random
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.outbox.outbox import Outbox
from shared.errors import Unavailable
from shared.wire.messages import ProbeMessage
from tests.support.disks import fragile_disk, small_disk
from tests.support.probes import DEVICE, make_probe

NAME = "outbox.db"


def waiting(outbox: Outbox) -> dict[int, str]:
    """Returns ids by number. It reads again where the file turns out to be damaged."""
    with contextlib.suppress(Unavailable):
        outbox.pending(100_000, 1 << 40)
    stored = outbox.pending(100_000, 1 << 40)
    for one in stored:
        message = ProbeMessage.model_validate_json(one.body)
        assert (message.sequence, message.probe_id) == (one.sequence, one.probe_id)
    return {one.sequence: one.probe_id for one in stored}


def fill(folder: Path, count: int) -> dict[int, str]:
    """Makes and closes an outbox with `count` probes."""
    outbox = Outbox(folder / NAME, DEVICE)
    for seed in range(count):
        outbox.put([make_probe(seed=seed)])
    held = waiting(outbox)
    outbox.close()
    assert not (folder / f"{NAME}-wal").exists()
    return held


def goes_on(outbox: Outbox, after: int) -> None:
    """Checks that new probes are stored, with numbers that were never used."""
    fresh = [make_probe(seed=seed) for seed in range(3)]
    assert outbox.put(fresh) == 3
    there = waiting(outbox)
    assert [there[after + place] for place in (1, 2, 3)] == [one.probe_id for one in fresh]
    outbox.acknowledge(there.values())
    assert waiting(outbox) == {}


def garble(path: Path, chance: random.Random, pages: int) -> None:
    """Overwrites some pages, but not the first, as a worn-out card does."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        for _ in range(pages):
            file.seek(chance.randrange(1, size // 4096) * 4096)
            file.write(chance.randbytes(4096))


@pytest.mark.parametrize("seed", range(8))
def test_of_a_file_with_broken_pages_the_rest_is_saved_and_numbers_go_on(
    tmp_path: Path, seed: int
) -> None:
    before = fill(tmp_path, 120)
    garble(tmp_path / NAME, random.Random(seed), 1 + seed % 4)
    outbox = Outbox(tmp_path / NAME, DEVICE)
    saved = waiting(outbox)
    assert saved.items() <= before.items()
    assert len(saved) >= 100
    goes_on(outbox, 120)
    outbox.close()
    with contextlib.closing(sqlite3.connect(tmp_path / NAME)) as check:
        assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_file_that_breaks_while_it_is_open_is_set_aside_and_the_box_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = fill(tmp_path, 300)
    outbox = Outbox(tmp_path / NAME, DEVICE)
    garble(tmp_path / NAME, random.Random(2), 12)
    saved = waiting(outbox)
    assert 0 < len(saved) < 300
    assert saved.items() <= before.items()
    goes_on(outbox, 300)
    (aside,) = tmp_path.glob(f"{NAME}.damaged-*")
    assert aside.stat().st_mode & 0o077 == 0
    assert f"the {len(saved)} waiting probes that could be read" in caplog.text
    outbox.close()


def test_what_is_put_in_the_moment_in_which_the_file_breaks_is_stored(tmp_path: Path) -> None:
    fill(tmp_path, 50)
    outbox = Outbox(tmp_path / NAME, DEVICE)
    size = (tmp_path / NAME).stat().st_size
    with (tmp_path / NAME).open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(size - 4096))  # every page but the first
    probe = make_probe(seed=99)
    outbox.put([probe])
    assert outbox.counts().held == 0
    assert waiting(outbox) == {51: probe.probe_id}
    outbox.close()


def test_a_file_that_is_no_database_any_more_costs_what_was_in_it_and_no_number(
    tmp_path: Path,
) -> None:
    for round_ in range(3):
        fill(tmp_path, 10)
        (tmp_path / NAME).write_bytes(b"something else" * 1000)
        outbox = Outbox(tmp_path / NAME, DEVICE)
        assert waiting(outbox) == {}
        goes_on(outbox, 10 + round_ * 13)
        outbox.close()
        assert len(list(tmp_path.glob(f"{NAME}.damaged-*"))) == 1, "the newest alone is kept"


@pytest.mark.parametrize("emptied", [True, False])
def test_a_file_that_is_gone_or_empty_begins_anew_with_the_next_number(
    tmp_path: Path, emptied: bool
) -> None:
    fill(tmp_path, 10)
    (tmp_path / NAME).unlink()
    if emptied:
        (tmp_path / NAME).touch()
    outbox = Outbox(tmp_path / NAME, DEVICE)
    goes_on(outbox, 10)
    outbox.close()


@pytest.fixture
def power_cut(tmp_path: Path) -> Iterator[tuple[Path, dict[int, str]]]:
    """Yields a folder as after a power cut, and the probes that were stored before it."""
    running = tmp_path / "running"
    outbox = Outbox(running / NAME, DEVICE)
    for seed in range(40):
        outbox.put([make_probe(seed=seed)])
        if seed % 10 == 9:
            outbox.acknowledge([outbox.pending(1)[0].probe_id])
    held = waiting(outbox)
    after_power_cut = tmp_path / "found"
    shutil.copytree(running, after_power_cut)
    yield after_power_cut, held
    outbox.close()


def test_after_a_power_cut_everything_is_there(power_cut: tuple[Path, dict[int, str]]) -> None:
    folder, held = power_cut
    assert (folder / f"{NAME}-wal").stat().st_size > 0
    outbox = Outbox(folder / NAME, DEVICE)
    assert waiting(outbox) == held
    counts = outbox.counts()
    assert counts.put == counts.acknowledged + counts.waiting == 40
    goes_on(outbox, 40)
    outbox.close()


@pytest.mark.parametrize("gone", [("-shm",), ("-wal",), ("-wal", "-shm")])
def test_a_journal_that_is_gone_takes_probes_with_it_but_no_number_comes_twice(
    power_cut: tuple[Path, dict[int, str]], gone: tuple[str, ...]
) -> None:
    folder, held = power_cut
    for suffix in gone:
        (folder / f"{NAME}{suffix}").unlink()
    outbox = Outbox(folder / NAME, DEVICE)
    there = waiting(outbox)
    assert there.items() <= held.items()
    if gone == ("-shm",):
        assert there == held
    goes_on(outbox, 40)
    outbox.close()


@pytest.mark.parametrize("seed", range(20))
def test_a_torn_journal_gives_what_was_stored_up_to_the_tear(
    power_cut: tuple[Path, dict[int, str]], seed: int
) -> None:
    folder, _ = power_cut
    chance = random.Random(seed)
    journal = folder / f"{NAME}-wal"
    place = chance.randrange(journal.stat().st_size)
    if seed % 2:
        os.truncate(journal, place)
    else:
        with journal.open("r+b") as file:
            file.seek(place)
            file.write(chance.randbytes(2000))
    outbox = Outbox(folder / NAME, DEVICE)
    there = waiting(outbox)
    last = max(there, default=0)
    assert last <= 40
    assert len(there) >= last - 4, "a prefix of the history: at most what was acknowledged is gone"
    goes_on(outbox, 40)
    outbox.close()


def test_a_disk_that_becomes_read_only_is_named_and_what_is_on_it_is_still_sent(
    tmp_path: Path,
) -> None:
    with fragile_disk(tmp_path / "card", megabytes=8) as disk:
        outbox = Outbox(disk.folder / NAME, DEVICE)
        stored = [make_probe(seed=seed) for seed in range(3)]
        assert outbox.put(stored) == 3
        disk.fail()
        assert outbox.put([make_probe(seed=9)]) == 0
        assert outbox.counts().held == 1
        assert "read-only" in str(outbox.trouble)
        assert [one.probe_id for one in outbox.pending(9)] == [one.probe_id for one in stored]
        outbox.acknowledge([one.probe_id for one in stored])
        assert outbox.pending(9) == []
        outbox.close()


def test_a_disk_that_is_read_only_from_the_start_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path / "card", kilobytes=4096) as disk:
        before = fill(disk.folder, 5)
        disk.remount("ro")
        outbox = Outbox(disk.folder / NAME, DEVICE)
        assert outbox.put([make_probe(seed=9)]) == 0
        assert outbox.counts().held == 1
        assert "read-only" in str(outbox.trouble)
        disk.remount("rw")
        outbox._file._retry_at_s = 0.0
        assert outbox.retry() == 1
        assert outbox.trouble is None
        there = waiting(outbox)
        assert before.items() <= there.items()
        assert len(there) == 6
        assert sum("takes nothing" in one.getMessage() for one in caplog.records) == 1
        outbox.close()
