"""The device's copy of a collection: encrypted, consistent, and empty after `clear`."""

import json
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edge_agent.config.key_file import CREDENTIAL, device_keys
from edge_agent.gallery.encrypted_store import State, open_store
from shared.encryption import Key, Keyring
from shared.errors import ConfigurationError, Damaged
from tests.support.edge_galleries import (
    COLLECTION,
    NOON,
    changes,
    fill,
    head,
    keys,
    make_store,
    part,
    person,
    templates,
    vector,
)


def everything(store: object) -> set[int]:
    return {int(one) for numbers, _ in store.templates() for one in numbers}  # type: ignore[attr-defined]


def test_what_went_in_comes_out(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    fill(store)
    assert everything(store) == {101, 102, 103}
    rows = store.rows([101, 999])
    assert list(rows) == [101]
    assert rows[101].tobytes() == vector(101).astype("<f2").tobytes()
    assert {one.id for one in store.persons_of([101, 103]).values()} == {"p1", "p3"}
    state = store.state()
    assert state is not None
    assert (state.seq, state.whole, state.caught_up) == (10, True, True)


def test_nothing_can_be_read_in_the_files(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.begin(head())
    eileen = person(1, id="eileen-collins", name="Eileen Collins")
    store.extend(part([eileen], {101: 1}))
    store.complete()
    content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert len(content) > 2048
    for secret in (b"eileen", b"Eileen", vector(101).astype("<f2").tobytes()[:16], b"test@1"):
        assert secret not in content
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in tmp_path.iterdir())


def test_an_envelope_does_not_open_in_the_place_of_another(tmp_path: Path) -> None:
    fill(make_store(tmp_path))
    with sqlite3.connect(tmp_path / "gallery.db") as connection:
        rows = dict(connection.execute("SELECT number, sealed FROM template"))
        connection.execute("UPDATE template SET sealed = ? WHERE number = 102", (rows[101],))
    connection.close()
    store = make_store(tmp_path)
    assert list(store.rows([101, 102])) == [101]
    assert store.lost_templates().tolist() == [102]


def test_another_key_finds_nothing_and_begins_anew(tmp_path: Path) -> None:
    fill(make_store(tmp_path))
    store, state, why = open_store(tmp_path / "gallery.db", COLLECTION, Keyring([Key.new()]))
    assert state is None
    assert why is not None
    assert "key" in why
    fill(store)
    assert everything(store) == {101, 102, 103}


def test_a_file_that_is_no_store_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "gallery.db").write_bytes(b"this is no database" * 1000)
    store, state, why = open_store(tmp_path / "gallery.db", COLLECTION, keys())
    assert (state, why is None) == (None, False)
    fill(store)


def test_changes_are_applied_in_their_order(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    fill(store)
    applied = store.apply(
        changes(
            20,
            left=[1],
            removed=[102, 555],
            persons=[person(3, id="renamed"), person(4)],
            templates=templates({103: 3, 104: 4, 105: 4}),
        )
    )
    assert set(applied.removed.tolist()) == {101, 102, 555}
    assert applied.numbers.tolist() == [104, 105]  # 103 was here already
    assert applied.rows.tobytes() == np.stack([vector(104), vector(105)]).astype("<f2").tobytes()
    assert everything(store) == {103, 104, 105}
    assert {one.id for one in store.persons()} == {"renamed", "p4"}  # nobody without templates
    state = store.state()
    assert state is not None
    assert state.seq == 20


def test_an_erasure_leaves_no_row_and_no_envelope(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    fill(store)
    with sqlite3.connect(tmp_path / "gallery.db") as connection:
        ((sealed,),) = connection.execute("SELECT sealed FROM template WHERE number = 101")
    connection.close()
    store.apply(changes(11, removed=[101]))
    assert "p1" not in {one.id for one in store.persons()}
    for file in tmp_path.iterdir():
        assert sealed[20:] not in file.read_bytes(), file.name


def test_a_snapshot_that_was_cut_short_is_no_gallery(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.begin(head(seq=7))
    store.extend(part([person(1)], {101: 1}))
    store.close()
    state = make_store(tmp_path).state()
    assert state is not None
    assert (state.whole, state.after, state.seq) == (False, 101, 7)


def test_clearing_forgets_everything(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    fill(store)
    store.clear()
    assert store.state() is None
    assert list(store.persons()) == []
    with pytest.raises(Damaged):
        store.apply(changes(12))


WRITER = """
import itertools, sys
from pathlib import Path
from tests.support.edge_galleries import *

store = make_store(Path(sys.argv[1]))
if store.state() is None:
    fill(store, 1)
print("ready", flush=True)
# Change n lets template 1000 + n come and template 1000 + n - 5 go.
for seq in itertools.count(store.state().seq + 1):
    store.apply(changes(
        seq, removed=[1000 + seq - 5], persons=[person(seq)], templates=templates({1000 + seq: seq})
    ))
"""


def test_kill_9_at_any_moment_leaves_what_the_store_says_it_holds(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(float(random.uniform(0.0, 0.15)))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        store = make_store(tmp_path)
        state = store.state()
        assert state is not None
        # The five newest, and whom the store began with.
        newest = {1000 + seq for seq in range(max(11, state.seq - 4), state.seq + 1)}
        assert everything(store) == newest | {101}
        assert {one.number for one in store.persons()} == {one - 1000 for one in newest} | {1}
        store.close()


def test_the_key_is_made_once_for_this_user_alone(tmp_path: Path) -> None:
    first = device_keys(tmp_path, None)
    assert stat.S_IMODE((tmp_path / "gallery.key").stat().st_mode) == 0o600
    assert device_keys(tmp_path, None).current.id == first.current.id


def test_a_given_key_is_never_made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        device_keys(tmp_path, tmp_path / "missing")
    key = Key.new()
    (tmp_path / CREDENTIAL).write_text(key.text)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert device_keys(tmp_path / "state", None).current.id == key.id
    assert not (tmp_path / "state").exists()


def test_time_is_remembered_only_forwards(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    fill(store)
    store.note_time(NOON.replace(hour=18))
    store.note_time(NOON.replace(hour=15))
    state = store.state()
    assert state is not None
    assert (state.seen_at.hour, state.server_at) == (18, NOON)


def test_a_disk_that_takes_nothing_is_said_to(tmp_path: Path) -> None:
    from shared.errors import Unavailable

    store = make_store(tmp_path)
    fill(store)
    blocker = sqlite3.connect(tmp_path / "gallery.db", isolation_level=None, timeout=0)
    blocker.execute("BEGIN IMMEDIATE")
    store._writer.execute("PRAGMA busy_timeout = 10")
    with pytest.raises(Unavailable):
        store.apply(changes(11, removed=[101]))
    blocker.execute("ROLLBACK")
    blocker.close()
    assert everything(store) == {101, 102, 103}
    store.apply(changes(11, removed=[101]))
    assert everything(store) == {102, 103}


def test_a_file_that_is_damaged_in_the_middle_is_said_to_be_and_can_be_cleared(
    tmp_path: Path,
) -> None:
    store = make_store(tmp_path)
    fill(store, 400)
    store.close()
    path = tmp_path / "gallery.db"
    content = bytearray(path.read_bytes())
    content[5 * 8192 : -8192] = bytes(len(content) - 6 * 8192)  # what a worn card may do
    path.write_bytes(content)
    store = make_store(tmp_path)
    assert store.state() is not None  # on a page that is well
    with pytest.raises(Damaged):
        list(store.templates())
    store.clear()
    assert store.state() is None
    fill(store)
    assert everything(store) == {101, 102, 103}


def test_the_state_has_the_same_keys_on_the_disk_as_in_older_versions(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.begin(head())
    state = store.state()
    assert state is not None
    names = {"gallery", "seq", "after", "caught_up", "told_at", "seen_at"}
    assert json.loads(state.model_dump_json(by_alias=True)).keys() == names
    assert State.model_validate_json(state.model_dump_json(by_alias=True)) == state
