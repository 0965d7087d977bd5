"""Commands that are killed (kill -9) at one of their writes, and called again.

A write is a statement that changes the database, a commit, a file that is opened for writing, or
one that is renamed or removed: each is a moment at which the disk holds something else than before.
"""

import base64
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from match_server.database import Database
from match_server.importing import opened
from match_server.migrations import known_revisions, migrate
from match_server.schemas.collections import CollectionCreate
from match_server.services.lookup import collection_named
from match_server.settings import Settings
from shared.envelope import Key
from tests.match_server.every_table import contents, fill, tables_of

PERSONS = 25
_MODEL = "compact-mobilefacenet-512@1"
_RUN = """
import os, signal, sys
from sqlalchemy import event
from sqlalchemy.engine import Engine
last, counted, *words = sys.argv[1:]
count = 0
def step(*_):
    global count
    count += 1
    if count == int(last):
        os.kill(os.getpid(), signal.SIGKILL)
def statement(connection, cursor, text, *_):
    if text.split()[0].upper() in ("INSERT", "UPDATE", "DELETE", "CREATE", "ALTER", "DROP"):
        step()
event.listen(Engine, "before_cursor_execute", statement)
event.listen(Engine, "commit", step)
def heard(name, arguments):
    written = name == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if written or name in ("os.rename", "os.remove", "os.mkdir"):
        step()
from match_server.cli import main
sys.addaudithook(heard)
try:
    main(words)
finally:
    writes = count
    with open(counted, "w") as file:
        file.write(str(writes))
"""


@dataclass(frozen=True)
class Scenario:
    """A command over a folder that `prepare` fills; `check` says what is wrong in the end."""

    words: Callable[[Path], list[str]]
    prepare: Callable[[Path], None]
    check: Callable[[Path], str | None]
    done_already: str  # in what the command says when the killed one had done everything


def run(words: list[str], folder: Path, *, last: int = 0) -> tuple[int, str, int]:
    """Status and output of a command that is killed at its write `last`, and its writes."""
    counted = folder / "writes"
    counted.unlink(missing_ok=True)
    command = [sys.executable, "-c", _RUN, str(last), str(counted), *words]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=_environment(folder)
    )
    writes = int(counted.read_text()) if counted.exists() else 0
    return done.returncode, done.stdout + done.stderr, writes


def trial(scenario: Scenario, folder: Path, kills: int, seed: int) -> list[str]:
    """Kill the command some times, each in a folder of its own; answers what was wrong."""
    chance, wrong = random.Random(seed), []
    prepared, whole = folder / "prepared", folder / "whole"
    prepared.mkdir()
    scenario.prepare(prepared)
    shutil.copytree(prepared, whole)
    status, said, writes = run(scenario.words(whole), whole)
    if status or (problem := scenario.check(whole)):
        return [f"without any kill: {said} {problem}"]
    for number in range(kills):
        # The last writes are the more interesting: there the work is committed.
        last = writes - int(writes * chance.random() ** 2)
        place = folder / f"{number}"
        shutil.copytree(prepared, place)
        status, said, _ = run(scenario.words(place), place, last=last)
        if status != -signal.SIGKILL:
            wrong.append(f"seed {seed}, write {last} of {writes}: ended with {status}: {said}")
            continue
        status, said, _ = run(scenario.words(place), place)
        problem = scenario.check(place)
        if problem or (status and scenario.done_already not in said):
            wrong.append(f"seed {seed}, write {last} of {writes}: {problem} {said}")
    return wrong


def _environment(folder: Path) -> dict[str, str]:
    keys = folder / "master.keys"
    given = {"MUSTER_ENCRYPTION_KEY_FILE": str(keys)} if keys.exists() else {}
    return {**os.environ, **given, "PYTHONDONTWRITEBYTECODE": "1"}


def _settings(folder: Path, name: str = "data") -> Settings:
    keys = folder / "master.keys"
    return Settings(data_dir=folder / name, encryption_key_file=keys if keys.exists() else None)


def _enroll(folder: Path, collection: str) -> None:
    random_rows = np.random.default_rng(5).standard_normal((PERSONS, 512))
    rows = (random_rows / np.linalg.norm(random_rows, axis=1, keepdims=True)).astype("<f2")
    lines = [
        {"name": f"P{n}", "template": base64.b64encode(row.tobytes()).decode(), "model_id": _MODEL}
        for n, row in enumerate(rows)
    ]
    file = folder / "templates.ndjson"
    file.write_text("\n".join(map(json.dumps, lines)))
    words = ["import", str(file), "--collection", collection, "--data-dir", str(folder / "data")]
    status, said, _ = run(words, folder)
    assert status == 0, said


def _found(folder: Path, name: str, collection: str) -> str | None:
    """What is wrong with the persons of a server, by its own gallery."""
    with opened(_settings(folder, name)) as services:
        with services.database.read() as session:
            owner = collection_named(session, collection)
        gallery = services.index.caught_up(owner).gallery
        found = len(gallery), services.index.damaged(), owner.person_count
    return None if found == (PERSONS, 0, PERSONS) else f"templates, damaged, persons: {found}"


def _prepare_import(folder: Path) -> None:
    _enroll(folder, "default")
    words = ["export", str(folder / "export"), "--data-dir", str(folder / "data")]
    status, said, _ = run(words, folder)
    assert status == 0, said


def _prepare_rotation(folder: Path) -> None:
    (folder / "master.keys").write_text(Key.new().text)
    with opened(_settings(folder), create=True) as services:
        services.collections.create(CollectionCreate(name="secret", encrypted=True))
    _enroll(folder, "secret")


def _check_rotation(folder: Path) -> str | None:
    """With the newest key alone everything can be read, once a rotation has ended."""
    file = folder / "master.keys"
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    kept = file.read_text()
    file.write_text(lines[0])
    try:
        return _found(folder, "data", "secret")
    finally:
        file.write_text(kept)


def _prepare_migration(folder: Path) -> None:
    settings = _settings(folder)
    settings.data_dir.mkdir()
    database = Database(settings.sqlalchemy_url)
    migrate(database, known_revisions()[-1])
    with database.connection() as connection:
        fill(connection, tables_of(connection))
    database.close()


def _check_migration(folder: Path) -> str | None:
    found = []
    for place in (folder / "expected", folder):
        if not place.exists():
            place.mkdir()
            _prepare_migration(place)
        database = Database(_settings(place).sqlalchemy_url)
        if place != folder:
            migrate(database)
        with database.read() as session:
            found.append(contents(session.connection(), tables_of(session.connection())))
        database.close()
    differ = [name for name in found[0] if found[0][name] != found[1].get(name)]
    return f"tables that differ: {differ}" if differ else None


SCENARIOS = {
    "import": Scenario(
        lambda folder: ["import", str(folder / "export"), "--data-dir", str(folder / "new")],
        _prepare_import,
        lambda folder: _found(folder, "new", "default"),
        "is imported into an empty database",
    ),
    "key rotation": Scenario(
        lambda folder: ["keyring", "rotate", "--data", "--data-dir", str(folder / "data")],
        _prepare_rotation,
        _check_rotation,
        "never",
    ),
    "migration": Scenario(
        lambda folder: ["migrate", "--data-dir", str(folder / "data")],
        _prepare_migration,
        _check_migration,
        "never",
    ),
}
