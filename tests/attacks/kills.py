"""Killed (SIGKILL) at any step of a migration, an import or a rotation of keys, and begun again.

It runs as a program of its own, since it forks: each trial is a process that dies just before one
of the calls by which it changes something outside of itself. Then nothing is lost and nothing half
done, as a server sees it that starts there, and the same command comes to its end.
"""

import base64
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
from sqlalchemy import select

from match_server.backup.exporting import export
from match_server.commands.backup import import_server
from match_server.commands.cli import main
from match_server.container import Services
from match_server.db.database import Database
from match_server.db.migrations import current_revision, head_revision, known_revisions, migrate
from match_server.db.tables import Collection, Epoch, Image, Person, Table, Template
from match_server.process.bootstrap import prepare
from match_server.process.open_services import open_services
from match_server.schemas.batches import BatchQuery
from match_server.schemas.collections import CollectionCreate
from match_server.services import key_rotation
from match_server.services.audit.chain import append_notes
from match_server.services.privacy.erasure_journal import FILE as JOURNAL
from match_server.services.privacy.orphan_files import OrphanFiles
from match_server.settings import Settings
from shared.clock import SystemClock
from shared.encryption import Key
from shared.errors import Conflict
from shared.ids import new_id
from tests.support.every_table import contents, fill, tables_of

_QUERIES: Final = frozenset({"execute", "executemany", "open"})
_STEPS: Final = _QUERIES | {
    "commit", "mkdir", "rename", "replace", "unlink", "rmdir", "fsync", "write", "ftruncate",
}  # fmt: skip
_PERSONS, _PHOTOS = 30, 5
_ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Work:
    """The work to kill. Its functions take the folder of a trial, and run in own processes."""

    name: str
    prepare: Callable[[Path], None]
    do: Callable[[Path], None]
    check: Callable[[Path, bool], None]  # whether it came to its end; AssertionError


def _forked(
    work: Callable[[], None], *, counted: bool = False, kill_at: int | None = None
) -> list[str] | None:
    """Returns the counted steps of a process; None if it was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _child(work, counted or kill_at is not None, kill_at, writing)
    os.close(writing)
    with os.fdopen(reading) as stream:
        text = stream.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return None
    if status:
        raise AssertionError(text)
    steps: list[str] = json.loads(text)
    return steps


def _child(work: Callable[[], None], watched: bool, kill_at: int | None, writing: int) -> None:
    steps: list[str] = []

    def watch(_frame: Any, event: str, called: Any) -> None:
        if event == "c_call" and called.__name__ in _STEPS and not _of_a_value(called):
            if len(steps) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            steps.append(called.__name__)

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        sys.setprofile(watch if watched else None)
        work()
        sys.setprofile(None)
        text, status = json.dumps(steps), 0
    except BaseException:
        sys.setprofile(None)
        text, status = traceback.format_exc(), 1
    with os.fdopen(writing, "w") as stream:
        stream.write(text)
    os._exit(status)


def _of_a_value(called: Any) -> bool:
    """Whether it is a method like `str.replace`, without effects outside."""
    return isinstance(getattr(called, "__self__", None), str | bytes | datetime)


def _chosen(steps: list[str], chance: random.Random) -> int:
    """Chooses any step, a step that stores something, or a step soon after a commit."""
    lasting = [place for place, step in enumerate(steps) if step not in _QUERIES]
    commits = [place for place, step in enumerate(steps) if step == "commit"]
    soon = [place + more for place in commits for more in range(1, 6) if place + more < len(steps)]
    return chance.choice(chance.choice((range(len(steps)), lasting, soon)))


# A migration, of every table.


def _old_database(folder: Path) -> None:
    old = random.Random(str(folder)).choice(known_revisions()[1:])
    with closing(Database(_settings(folder).sqlalchemy_url, append_notes)) as database:
        migrate(database, old)
        with database.connection() as connection:
            fill(connection, tables_of(connection))
        _note(folder, "old", _digest(database))
        _note(folder, "revision", old)


def _migrated(folder: Path, done: bool) -> None:
    with closing(Database(_settings(folder).sqlalchemy_url, append_notes)) as database:
        revision = current_revision(database)
        old = _noted(folder, "revision")
        assert revision == head_revision() if done else revision in (old, head_revision())
        if revision == old:
            assert _digest(database) == _noted(folder, "old")
        else:
            migrate(database, old)
            assert _digest(database) == _noted(folder, "old")
            migrate(database)


def _digest(database: Database) -> str:
    """Of the tables that this version has: others do not come back with an older one."""
    with database.read() as session:
        tables = contents(session.connection(), tables_of(session.connection()))
    rows = {name: rows for name, rows in tables.items() if name in Table.metadata.tables}
    return hashlib.sha256(repr(rows).encode()).hexdigest()


# A whole server.


def _settings(folder: Path, name: str = "server") -> Settings:
    key_file = folder / "master.keys"
    return Settings(
        data_dir=folder / name, encryption_key_file=key_file if key_file.exists() else None
    )


def _server(folder: Path) -> None:
    """Creates a server with an encrypted collection of a few persons with photos."""
    (folder / "master.keys").write_text(Key.new().text)
    (folder / "master.keys").chmod(0o600)
    with open_services(_settings(folder), create=True) as services:
        services.collections.create(CollectionCreate(name="secret", encrypted=True))
        model_id = services.faces.model_id
        lines = [
            {"name": f"P{n}", "template": _vector(n), "model_id": model_id} for n in range(_PERSONS)
        ]
        (folder / "templates").write_text("\n".join(map(json.dumps, lines)))
        planned = services.imports.plan("secret", folder / "templates", again=False)
        groups = services.imports.run("secret", planned, BatchQuery())
        assert {one.status for one in chain.from_iterable(groups)} == {"accepted"}
        for n in range(_PHOTOS):
            _keep_photo(services, f"P{n}", _photo(n))
        _note(folder, "server", _held(services))


def _vector(n: int) -> str:
    vector = np.random.default_rng(n).standard_normal(512)
    vector /= np.linalg.norm(vector)
    return base64.b64encode(vector.astype("<f2").tobytes()).decode()


def _photo(n: int) -> bytes:
    return f"a photo, number {n}".encode()


def _keep_photo(services: Services, name: str, data: bytes) -> None:
    with services.database.read() as session:
        person = session.scalars(select(Person).where(Person.name == name)).one()
        collection = session.get_one(Collection, person.collection_number)
        cipher = services.vault.cipher(session, collection)
    with (
        services.files.kept("photos", data, cipher=cipher) as kept,
        services.database.write() as session,
    ):
        assert kept is not None
        image = Image(
            id=new_id(),
            person_number=person.number,
            file=kept.name,
            media_type="image/png",
            size_bytes=len(data),
            sha256=cipher.digest(data),
            data_key=kept.data_key,
            quality={},
            detection={},
            created_at=services.clock.now(),
        )
        session.add(image)


def _held(services: Services) -> list[str]:
    """Returns the decrypted content of the collection: names, templates, photos."""
    with services.database.read() as session:
        collection = session.scalars(select(Collection).where(Collection.name == "secret")).one()
        cipher = services.vault.cipher(session, collection)
        held = [f"person {name}" for name in session.scalars(select(Person.name))]
        for row in session.scalars(select(Template)):
            (vector,) = cipher.open_vectors(row.model_id, [(row.id, row.vector)])
            held.append(f"template {hashlib.sha256(bytes(vector)).hexdigest()}")
        for file in session.scalars(select(Image.file)):
            held.append(f"photo {services.files.read(str(file), cipher=cipher).decode()}")
        assert services.audit.verify().problem is None
    return sorted(held)


def _require_same(folder: Path, services: Services) -> None:
    erased, held = set(_noted(folder, "server")), set(_held(services))
    assert held == erased, f"lost: {sorted(erased - held)}, too much: {sorted(held - erased)}"


def _files(services: Services) -> int:
    """Returns the number of stored photos, after the removal of incomplete writes."""
    folder = services.settings.data_dir
    photos = [one for one in (folder / "photos").rglob("*") if one.is_file()]
    for one in photos:
        os.utime(one, (0, 0))
    services.files.sweep()
    OrphanFiles(folder, services.database).run()
    return sum(one.is_file() for one in photos)


# A rotation of its keys.


def _rotate(folder: Path) -> None:
    key_rotation._ROWS, key_rotation._FILES = 7, 2  # type: ignore[misc]
    os.environ["MUSTER_ENCRYPTION_KEY_FILE"] = str(folder / "master.keys")
    words = ["keyring", "rotate", "--data", "--json", "--data-dir", str(folder / "server")]
    main(words, standalone_mode=False)


def _rotated(folder: Path, done: bool) -> None:
    with open_services(_settings(folder)) as services:
        _require_same(folder, services)
        assert not (done and services.rotation.unfinished())
        assert _files(services) == _PHOTOS


# An import of it, after somebody was erased.


def _exported(folder: Path) -> None:
    _server(folder)
    settings = _settings(folder)
    export(settings, SystemClock(), folder / "export")
    with open_services(settings) as services:
        with services.database.read() as session:
            gone = session.scalars(select(Person.id).where(Person.name == "P0")).one()
        services.erasures.erase("secret", gone)
        _note(folder, "server", _held(services))
    there = folder / "there" / "galleries"
    there.mkdir(parents=True)
    (there / "of-another-server").touch()


def _import(folder: Path) -> None:
    there = _settings(folder, "there")
    journal = folder / "server" / JOURNAL
    try:
        import_server(there, folder / "export", None, journal, as_json=True)
    except Conflict:  # it was imported before it was killed: the server is started
        with open_services(there):
            pass


def _imported(folder: Path, done: bool) -> None:
    started = folder / "started"  # a copy: what starts in an empty folder makes a new server
    shutil.rmtree(started, ignore_errors=True)
    shutil.copytree(folder / "there", started)
    with open_services(_settings(folder, "started"), create=True) as services:
        with services.database.read() as session:
            epochs = session.scalars(select(Epoch.why)).all()
            persons = session.scalars(select(Person.number)).all()
        if not persons and not done:
            return  # nothing of it is there
        _require_same(folder, services)
        assert _files(services) == _PHOTOS - 1
        assert "imported" in epochs, "followers would go on as if nothing had happened"
        assert not (started / "galleries" / "of-another-server").exists()


def _note(folder: Path, name: str, value: Any) -> None:
    (folder / f"{name}.json").write_text(json.dumps(value))


def _noted(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


WORKS: Final = (
    Work("migration", _old_database, lambda folder: prepare(_settings(folder)), _migrated),
    Work("import", _exported, _import, _imported),
    Work("rotation", _server, _rotate, _rotated),
)


@contextmanager
def _copied(template: Path) -> Iterator[Path]:
    folder = template.with_name(f"{template.name}-trial")
    shutil.copytree(template, folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _trials(work: Work, root: Path, chance: random.Random) -> Iterator[None]:
    template = root / work.name
    template.mkdir()
    _forked(lambda: work.prepare(template))
    with _copied(template) as folder:
        steps = _forked(lambda: work.do(folder), counted=True)
    assert steps
    while True:
        at = _chosen(steps, chance)
        try:
            with _copied(template) as folder:
                _forked(lambda: work.do(folder), kill_at=at)
                _forked(lambda: work.check(folder, False))
                _forked(lambda: work.do(folder))
                _forked(lambda: work.check(folder, True))
        except AssertionError as error:
            raise AssertionError(
                f"{work.name}, killed before step {at} of {len(steps)} ({steps[at]}): {error}"
            ) from None
        yield


def _main(seconds: float, seed: int) -> None:
    chance = random.Random(seed)
    until_s = time.monotonic() + seconds
    kills = 0
    with tempfile.TemporaryDirectory(prefix="muster-") as path:
        running = [_trials(work, Path(path), chance) for work in WORKS]
        while kills == 0 or time.monotonic() < until_s:
            for one in running:
                next(one)
                kills += 1
    names = ", ".join(work.name for work in WORKS)
    print(f"{kills:,} kills during {names}")


def run(seconds: float, seed: int) -> str:
    """Kills for some time; returns a line of results. Raises if data is lost or incomplete."""
    words = [sys.executable, "-m", "tests.attacks.kills", str(seconds), str(seed)]
    done = subprocess.run(words, cwd=_ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"seed {seed}: {done.stderr[-4000:]}")
    return done.stdout.strip()


if __name__ == "__main__":
    _main(float(sys.argv[1]), int(sys.argv[2]))
