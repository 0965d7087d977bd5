"""Export and import of a whole server: complete, or without any effect."""

import contextlib
import functools
import io
import itertools
import random
import stat
import threading
import tracemalloc
from typing import get_args, get_type_hints

import pytest
from click.testing import CliRunner
from sqlalchemy import JSON, func, select, update

from match_server.backup.container import MAGIC, Reader, Writer
from match_server.backup.exporting import export
from match_server.backup.files import Files, NamedFile
from match_server.backup.importing import is_export
from match_server.backup.importing import restore as restore_with
from match_server.backup.rows import TableRows, highest_numbers
from match_server.commands.cli import main
from match_server.data_folder import make_data_folder
from match_server.db.database import Database
from match_server.db.migrations import head_revision, known_revisions, migrate
from match_server.db.tables import (
    AuditHead,
    Change,
    Counter,
    Epoch,
    Event,
    Image,
    ServerProcess,
    Table,
    Template,
)
from match_server.schemas.audit import AuditQuery
from match_server.services.audit.chain import append_notes
from match_server.services.audit.reader import Audit
from match_server.services.storage.files import FileStore
from match_server.settings import Settings
from shared import encryption
from shared.clock import SystemClock
from shared.encryption import Key
from shared.errors import ConfigurationError, Conflict, Damaged, KeyMissing, MusterError
from tests.support.every_table import ROWS, contents, fill, tables_of

on_sqlite = pytest.mark.backends("sqlite")  # nothing in it depends on where the rows come from
PERSONS = "/v1/collections/default/persons"
COLOURS = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0)]


class _Any:
    """The URIs of all storages."""

    def __contains__(self, _uri):
        return True


restore = functools.partial(restore_with, storages=_Any())


@pytest.fixture(autouse=True)
def _weak_passphrases(monkeypatch):
    """Keys of passphrases at a small cost; `tests/shared/test_encryption.py` tests the real one."""
    monkeypatch.setitem(encryption._SCRYPT, "n", 2)


@contextlib.contextmanager
def _reading(settings):
    database = Database(settings.sqlalchemy_url, append_notes)
    with database.read() as session:
        yield session
    database.close()


def _everything(settings):
    """All rows and all files, without what an import begins or forgets."""
    with _reading(settings) as session:
        rows = contents(session.connection(), Table.metadata)
    rows["epochs"] = [row for row in rows["epochs"] if "imported" not in row]
    del rows["server_processes"]
    return rows, _files(settings.data_dir)


def _epochs(settings):
    """Why each epoch of the feed began, and after which change."""
    with _reading(settings) as session:
        epochs = select(Epoch.why, Epoch.begins_after).order_by(Epoch.number)
        return [tuple(row) for row in session.execute(epochs)]


def _files(folder):
    actual = {}
    for kind in ("photos", "snapshots"):
        for path in (folder / kind).rglob("*"):
            if path.is_file():
                actual[path.relative_to(folder).as_posix()] = path.read_bytes()
    return actual


@pytest.fixture
def live(api, helpers, tmp_path):
    """A server with data of every kind, some of it erased again."""
    api.ok("POST", "/v1/collections", json={"name": "staff", "max_templates": 9})
    uri = f"file://{tmp_path / 'archive'}"
    api.ok("POST", "/v1/storages", json={"name": "archive", "uri": uri})
    group = api.ok("POST", "/v1/groups", json={"collection": "default", "name": "Küche"})["id"]
    for number, colour in enumerate(COLOURS):
        fields = {"metadata": {"floor": number, "x": [None, 0.1]}, "groups": [group]}
        person = api.person(f"Zoë {number}", external_id=f"e{number}", **fields)
        picture = helpers.paint((colour, 60))
        path = f"{PERSONS}/{person}/images?store=1"
        path += "&storage=archive" if number == 0 else ""
        api.ok("POST", path, data={"image": (io.BytesIO(picture), "face.png")})
        api.template(person, helpers.unit_vector(100 + number))
    api.send(*[api.probe(helpers.unit_vector(100 + n), sequence=n + 1) for n in range(3)])
    gone = api.person("Gone", helpers.unit_vector(7))
    api.ok("DELETE", f"{PERSONS}/{gone}")  # the highest template number is unused now
    return api


@pytest.fixture
def target(tmp_path, empty_database):
    """Settings of an empty machine."""

    def make(kind, name="elsewhere"):
        made = Settings(data_dir=tmp_path / name, database_url=empty_database(kind))
        make_data_folder(made.data_dir)
        return made

    return make


def _export(settings, path, passphrase=None, **options):
    return export(settings, SystemClock(), path, passphrase, **options)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_server_moves_and_comes_back_and_nothing_is_lost(
    live, target, make_services, helpers, tmp_path, kind
):
    probes = [helpers.unit_vector(100 + number) for number in range(4)]
    actual = [live.search(probe)["probes"] for probe in probes]
    here = live.services.settings
    there, back = target(kind), target("sqlite", "back")
    assert _export(here, tmp_path / "one").files == len(COLOURS) + 3
    restore(there, tmp_path / "one")
    before = _everything(there)
    assert before == _everything(here)
    _export(there, tmp_path / "two", "a passphrase")
    restore(back, tmp_path / "two", "a passphrase")
    assert _everything(back) == _everything(there)
    seq = before[0]["changes"][-1][0]
    assert _epochs(back) == [*_epochs(here), ("imported", seq), ("imported", seq)]
    assert _audit(back).problem is None
    moved = type(live)(
        _client(make_services(**dict(there))), live.services, live.clock, dict(live.keys)
    )
    assert [moved.search(probe)["probes"] for probe in probes] == actual
    last = before[0]["changes"][-1][0]
    assert moved.template(moved.person("New"), helpers.unit_vector(9))["seq"] == last + 2
    with _reading(there) as session:
        numbers = session.scalars(select(Template.number).order_by(Template.number)).all()
    assert numbers[-1] == 10  # 9 was of an erased person: it is never used again


def _audit(settings):
    database = Database(settings.sqlalchemy_url, append_notes)
    try:
        audit = Audit(database)
        newest = audit.page(AuditQuery()).items[0]
        assert newest.action == "server_exported"
        return audit.verify()
    finally:
        database.close()


def _client(services):
    from match_server.app import create_app

    return create_app(services, b"secret" * 8, follow=False).test_client()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_every_column_of_every_table_is_carried(backend, target, tmp_path, kind):
    here = Settings(data_dir=tmp_path / "here", database_url=backend)
    make_data_folder(here.data_dir)
    database = Database(here.sqlalchemy_url, append_notes)
    migrate(database)
    with database.connection() as connection:
        fill(connection, Table.metadata)
        _make_true(connection)
        numbers = highest_numbers(connection, Table.metadata)
    database.close()
    done = _export(here, tmp_path / "file")
    before, _ = _everything(here)
    assert set(done.rows) == set(Table.metadata.tables)
    assert {len(rows) for rows in before.values()} == {ROWS, ROWS + 1}  # one tells of the export
    there = target(kind)
    restore(there, tmp_path / "file")
    after, _ = _everything(there)
    assert after == before
    with _reading(there) as session:
        assert session.scalars(select(ServerProcess)).all() == []  # of other machines
        assert highest_numbers(session.connection(), Table.metadata) == numbers


def test_every_kind_of_kept_file_is_exported():
    kinds = get_args(get_type_hints(FileStore.kept)["kind"])
    assert set(kinds) == {"photos", "snapshots"}
    named = {
        f"{table.name}.{column.name}"
        for table in Table.metadata.sorted_tables
        for column in table.columns
        if column.name in ("file", "snapshot") and not isinstance(column.type, JSON)
    }
    assert named == {"images.file", "events.snapshot", "doomed_files.file"}


def test_a_file_of_an_older_version_is_brought_up_to_date(backend, target, tmp_path):
    old = known_revisions()[-1]
    database = Database(backend or f"sqlite:///{tmp_path / 'old.db'}", append_notes)
    migrate(database, "base")
    migrate(database, old)
    with database.connection() as connection:
        metadata = tables_of(connection)
        fill(connection, metadata)
        before = contents(connection, metadata)
        with (tmp_path / "file").open("wb") as stream:
            _write(Writer(stream, None), connection, metadata, old)
    database.close()
    there = target("sqlite")
    restore(there, tmp_path / "file")
    database = Database(there.sqlalchemy_url, append_notes)
    assert migrate(database) == head_revision()
    migrate(database, old)
    with database.read() as session:
        assert contents(session.connection(), tables_of(session.connection())) == before
    database.close()


def _write(writer, connection, metadata, migration):
    tables = {table.name: TableRows(table) for table in metadata.sorted_tables}
    head = {"kind": "server", "migration": migration, "database": "sqlite", "at": "then"}
    columns = {name: rows.columns for name, rows in tables.items()}
    writer.add({**head, "tables": columns, "numbers": highest_numbers(connection, metadata)})
    for name, rows in tables.items():
        for batch in rows.read(connection):
            writer.add({"kind": "rows", "table": name, "rows": batch.rows}, batch.payload)
    writer.add({"kind": "end", "rows": dict.fromkeys(tables, ROWS), "files": 0})
    writer.finish()


@pytest.mark.parametrize("passphrase", [None, "a passphrase"])
def test_whatever_was_done_to_the_file_is_noticed_and_the_target_is_untouched(
    live, target, tmp_path, passphrase
):
    there = target("sqlite")
    file, broken = tmp_path / "file", tmp_path / "broken"
    _export(live.services.settings, file, passphrase)
    data = file.read_bytes()
    seeded = random.Random(4)
    count = 12 if passphrase is None else 1  # both are sealed in the same way
    places = [seeded.randrange(len(MAGIC), len(data)) for _ in range(count)]
    for at in [len(data) - 1, *places]:
        flipped = bytearray(data)
        flipped[at] ^= 1 << seeded.randrange(8)
        for damaged in (bytes(flipped), data[:at]):
            broken.write_bytes(damaged)
            with pytest.raises(MusterError):
                restore(there, broken, passphrase)
    broken.write_bytes(data + b"x")
    with pytest.raises(Damaged, match="after its end"):
        restore(there, broken, passphrase)
    assert _files(there.data_dir) == {}
    with _reading(there) as session:
        assert session.connection().dialect.get_table_names(session.connection()) == []
    restore(there, file, passphrase)
    assert _everything(there) == _everything(live.services.settings)


def test_chunks_of_two_files_cannot_be_exchanged(tmp_path):
    """Each chunk is sealed for its position in its own file."""
    for name in ("one", "two"):
        with (tmp_path / name).open("wb") as stream:
            writer = Writer(stream, None)
            for number in range(5):
                writer.add({"number": number}, bytes([number]) * 700_000)
            writer.finish()
    one, two = ((tmp_path / name).read_bytes() for name in ("one", "two"))
    heads = [len(MAGIC) + data[len(MAGIC) :].index(b"\n") + 1 for data in (one, two)]
    (tmp_path / "mixed").write_bytes(one[: heads[0]] + two[heads[1] :])
    with (tmp_path / "mixed").open("rb") as stream, pytest.raises(Damaged):
        list(Reader(stream, None))
    with (tmp_path / "one").open("rb") as stream:
        assert [record.head["number"] for record in Reader(stream, None)] == list(range(5))


def test_the_wrong_passphrase_or_none_is_said(live, target, tmp_path):
    here, there = live.services.settings, target("sqlite")
    _export(here, tmp_path / "sealed", "right")
    _export(here, tmp_path / "open")
    for name, passphrase, error, message in (
        ("sealed", "wrong", KeyMissing, "wrong passphrase"),
        ("sealed", None, ConfigurationError, "the file is encrypted"),
        ("open", "right", ConfigurationError, "not encrypted"),
    ):
        with pytest.raises(error, match=message):
            restore(there, tmp_path / name, passphrase)
    for text in (b"Zo\xc3\xab", b"api_keys", live.keys["admin"].encode()):
        assert text not in (tmp_path / "sealed").read_bytes()


def test_a_newer_format_and_a_newer_migration_are_said(target, tmp_path):
    file, there = tmp_path / "file", target("sqlite")
    file.write_bytes(MAGIC + b'{"format":2,"something":"new"}\n')
    with pytest.raises(ConfigurationError, match="format 2"):
        restore(there, file)
    with file.open("wb") as stream:
        writer = Writer(stream, None)
        head = {"kind": "server", "migration": "9999", "database": "sqlite", "at": "soon"}
        writer.add({**head, "tables": {}, "numbers": {}})
        writer.finish()
    with pytest.raises(ConfigurationError, match="newer version"):
        restore(there, file)
    file.write_bytes(b"PK\x03\x04 something else")
    assert not is_export(file)
    with pytest.raises(ConfigurationError, match="match-server export"):
        restore(there, file)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_server_that_holds_anything_is_not_overwritten(live, target, tmp_path, kind):
    _export(live.services.settings, tmp_path / "file")
    there = target(kind)
    restore(there, tmp_path / "file")
    before = _everything(there)
    with pytest.raises(Conflict, match=r"holds .*4 persons"):
        restore(there, tmp_path / "file")
    assert _everything(there) == before


def _forge(path, target, change):
    """A copy of an export with records changed by `change`."""
    with path.open("rb") as stream:
        records = list(Reader(stream, None))
    with target.open("wb") as stream:
        writer = Writer(stream, None)
        for record in records:
            change(record.head)
            writer.add(record.head, record.payload)
        writer.finish()


def _name_elsewhere(table, column, value):
    """A change of the first record of rows of a table without bytes."""
    columns = []

    def change(head):
        if head["kind"] == "server":
            columns[:] = head["tables"][table]
        elif head["kind"] == "rows" and head["table"] == table and head["rows"]:
            head["rows"][0][columns.index(column)] = value

    return change


def test_a_name_that_leads_out_of_the_folder_is_refused(target, tmp_path, live):
    _export(live.services.settings, tmp_path / "file")

    def rename(head):
        if head["kind"] == "file":
            head["name"] = "photos/../../escaped"

    changes = [rename]
    for table, column in (("images", "file"), ("events", "snapshot")):
        changes += [
            _name_elsewhere(table, column, name)
            for name in ("photos/../../escaped", "/etc/passwd", "../escaped")
        ]
    there = target("sqlite")
    before = sorted(there.data_dir.rglob("*"))
    for number, change in enumerate(changes):
        _forge(tmp_path / "file", tmp_path / f"forged{number}", change)
        with pytest.raises(Damaged, match=r"invalid name|outside of the folder"):
            restore(there, tmp_path / f"forged{number}")
        assert not _files(there.data_dir)
    assert not list(tmp_path.rglob("escaped"))
    assert [one for one in there.data_dir.rglob("*") if one.suffix == ".db"] == [
        one for one in before if one.suffix == ".db"
    ]


def _overlapping(head):
    """Lengths that alternate in sign: each second value would be a copy of all bytes."""
    if head["kind"] == "rows" and head["table"] == "templates":
        size = sum(value for row in head["rows"] for value in row if type(value) is int)
        head["rows"] = [[size * (-1) ** (n % 2)] * len(head["rows"][0]) for n in range(201)]


def _twice(head):
    if head["kind"] == "rows" and head["table"] == "persons":
        head["rows"].append(head["rows"][0])


def _numbered(head):
    if head["kind"] == "server":
        head["numbers"]["sqlite_master"] = ["x", 1]


@on_sqlite
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_rows_that_no_database_should_take_are_refused(target, tmp_path, live, kind):
    _export(live.services.settings, tmp_path / "file")
    there = target(kind)
    for number, change in enumerate(
        (
            _name_elsewhere("changes", "seq", "one"),
            _name_elsewhere("persons", "name", 7),
            _name_elsewhere("persons", "external_id", "e1"),
            _name_elsewhere("persons", "collection_number", 99),
            _overlapping,
            _twice,
            _numbered,
        )
    ):
        _forge(tmp_path / "file", tmp_path / f"forged{number}", change)
        with pytest.raises(Damaged):
            restore(there, tmp_path / f"forged{number}")
        assert _files(there.data_dir) == {}
    assert restore(there, tmp_path / "file").rows["persons"] == len(COLOURS)


@on_sqlite
def test_rows_with_much_text_are_written_in_records_that_can_be_read(
    target, tmp_path, live, monkeypatch
):
    monkeypatch.setattr("match_server.backup.rows._BATCH_CHARACTERS", 60)
    _export(live.services.settings, tmp_path / "file")
    with (tmp_path / "file").open("rb") as stream:
        heads = [record.head for record in Reader(stream, None)]
    assert [len(one["rows"]) for one in heads if one.get("table") == "persons"] == [1] * len(
        COLOURS
    )
    there = target("sqlite")
    restore(there, tmp_path / "file")
    assert _everything(there) == _everything(live.services.settings)


@on_sqlite
def test_what_a_file_says_does_not_reach_the_terminal_as_it_is(target, tmp_path, live):
    _export(live.services.settings, tmp_path / "file")
    shown = _name_elsewhere("storages", "uri", "file:///\x1b[2J")
    _forge(tmp_path / "file", tmp_path / "forged", shown)
    own = f"file://{tmp_path / 'archive'}"
    with pytest.raises(ConfigurationError, match="allow-storage") as error:
        restore_with(target("sqlite"), tmp_path / "forged", storages=[own])
    assert "\x1b" not in error.value.message


@on_sqlite
def test_a_photo_that_was_cut_off_in_a_storage_is_written_again(target, tmp_path, live):
    _export(live.services.settings, tmp_path / "file")
    (photo,) = (one for one in (tmp_path / "archive").rglob("*-*") if one.is_file())
    whole = photo.read_bytes()
    for left in (b"", whole[:9]):
        photo.write_bytes(left)  # who wrote it was killed
        restore(target("sqlite", f"there{len(left)}"), tmp_path / "file")
        assert photo.read_bytes() == whole
    photo.write_bytes(b"of somebody else")
    with pytest.raises(Conflict, match="already"):
        restore(target("sqlite", "third"), tmp_path / "file")


def test_a_file_writes_to_no_folder_that_nobody_allowed(target, tmp_path, live):
    _export(live.services.settings, tmp_path / "file")
    (own,) = (one["uri"] for one in live.ok("GET", "/v1/storages")["items"])
    stranger = f"file://{tmp_path / 'stranger'}"

    def photo(head):
        if head["kind"] == "file" and head["storage"]:
            head["storage"] = stranger

    there = target("sqlite")
    for change in (photo, _name_elsewhere("storages", "uri", stranger)):
        _forge(tmp_path / "file", tmp_path / "forged", change)
        with pytest.raises(ConfigurationError, match=r"--allow-storage"):
            restore_with(there, tmp_path / "forged", storages=[own])
        assert not (tmp_path / "stranger").exists()
        assert not _files(there.data_dir)
    with pytest.raises(ConfigurationError, match=r"file:///.*archive"):
        restore_with(there, tmp_path / "file")
    assert restore_with(there, tmp_path / "file", storages=[own]).files
    command = ["import", str(tmp_path / "file"), "--data-dir", str(tmp_path / "new")]
    assert "--allow-storage" in CliRunner().invoke(main, command).output
    done = CliRunner().invoke(main, [*command, "--allow-storage", own])
    assert done.exit_code == 0, done.output


def test_a_row_that_names_a_file_outside_of_the_folder_neither_shows_nor_deletes_it(live, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"of somebody else")
    files = Files(live.services.settings.data_dir)
    for name in ("../secret", str(secret), f"photos/../../{secret.name}"):
        with pytest.raises(Damaged, match="outside"):
            files.read(NamedFile(name, None))
    with live.services.database.write() as session:
        session.execute(update(Event).values(snapshot="../secret"))
    (event, *_) = live.ok("GET", "/v1/events")["items"]
    body = live.refused(500, "GET", f"/v1/events/{event['id']}/snapshot")
    assert "secret" not in body["message"]
    with live.services.database.write() as session:
        live.services.files.doom_snapshots(session, ["../secret"])
    live.services.files.sweep()
    assert secret.read_bytes() == b"of somebody else"


def test_an_export_holds_one_moment_while_others_write(live, target, helpers, tmp_path):
    stop = threading.Event()
    person = live.person("Busy")

    def write():
        for seed in itertools.count(1000):
            if stop.is_set():
                return
            live.template(person, helpers.unit_vector(seed))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(3):
            _export(live.services.settings, tmp_path / f"file{number}")
    finally:
        stop.set()
        writer.join()
    for number in range(3):
        there = target("sqlite", f"t{number}")
        restore(there, tmp_path / f"file{number}")
        with _reading(there) as session:
            last = session.scalar(select(func.max(Change.seq)))
            counter = session.get(Counter, "changes")
            added = session.scalar(
                select(func.count()).where(Change.kind == "template_added")
            ) - session.scalar(select(func.count()).where(Change.kind == "template_removed"))
            assert (counter.value, added) == (
                last,
                session.scalar(select(func.count()).select_from(Template)),
            )


def test_a_photo_that_was_erased_meanwhile_is_exported_as_not_kept(
    live, target, tmp_path, monkeypatch
):
    """A person is erased between the reading of the rows and the reading of the files."""
    read, listed = Files.read, live.ok("GET", PERSONS)["items"]

    def slow(places, file):
        if listed:
            for one in listed:
                live.ok("DELETE", f"{PERSONS}/{one['id']}")
            listed.clear()
        return read(places, file)

    monkeypatch.setattr(Files, "read", slow)
    done = _export(live.services.settings, tmp_path / "file")
    assert (done.missing, done.files) == ([], 0)
    there = target("sqlite")
    assert restore(there, tmp_path / "file").gone == len(COLOURS) + 3
    with _reading(there) as session:
        assert set(session.scalars(select(Image.file))) == {None}
        assert set(session.scalars(select(Event.snapshot))) == {None}


def test_a_photo_that_is_lost_is_named(live, target, tmp_path):
    here = live.services.settings
    lost = next(iter(_files(here.data_dir)))
    (here.data_dir / lost).unlink()
    done = _export(here, tmp_path / "file")
    assert done.missing == [lost]
    there = target("sqlite")
    assert restore(there, tmp_path / "file").gone == 1
    with _reading(there) as session:
        named = {*session.scalars(select(Image.file)), *session.scalars(select(Event.snapshot))}
    assert lost not in named
    assert None in named
    assert len(_files(there.data_dir)) == len(_files(here.data_dir))


def test_what_is_encrypted_at_rest_stays_so_in_the_file(
    make_api, target, make_services, helpers, tmp_path
):
    key = Key.new().text
    live = make_api(encryption_key=key)
    live.ok("POST", "/v1/collections", json={"name": "secret", "encrypted": True})
    made = live.ok("POST", "/v1/collections/secret/persons", json={"name": "Ann"})["id"]
    vector = helpers.unit_vector(int.from_bytes(bytes((9, 200, 9)), "big"))  # of the picture
    path = f"/v1/collections/secret/persons/{made}"
    body = {"template": helpers.encode(vector), "model_id": helpers.MODEL}
    live.ok("POST", f"{path}/templates", json=body)
    picture = helpers.paint(((9, 200, 9), 60))
    live.ok("POST", f"{path}/images?store=1", data={"image": (io.BytesIO(picture), "face.png")})
    done = _export(live.services.settings, tmp_path / "file")
    assert done.encrypted_collections == ["secret"]
    data = (tmp_path / "file").read_bytes()
    assert vector.astype("<f2").tobytes() not in data
    assert picture not in data
    there = target("sqlite")
    restore(there, tmp_path / "file")
    search = {"templates": [{"vector": helpers.encode(vector), "model_id": helpers.MODEL}]}
    for encryption_key, status in ((key, 200), (None, 503)):
        services = make_services(**{**dict(there), "encryption_key": encryption_key})
        moved = type(live)(_client(services), services, live.clock)
        answer = moved.call("POST", "/v1/collections/secret/search", json=search)
        assert answer.status_code == status
    assert answer.get_json()["code"] == "key_missing"


def test_memory_does_not_grow_with_the_number_of_templates(tmp_path, target):
    peaks = []
    for count in (1000, 9000):
        here = Settings(data_dir=tmp_path / f"here{count}")
        make_data_folder(here.data_dir)
        _with_templates(here, count)
        there = target("sqlite", f"there{count}")
        tracemalloc.start()
        _export(here, tmp_path / f"file{count}")
        restore(there, tmp_path / f"file{count}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 4_000_000  # 8000 templates more are 8 MB more, and their rows


def _make_true(connection):
    """Values that must be consistent also in invented rows."""
    connection.execute(update(Image).values(file=None))  # there are no such files
    connection.execute(update(Event).values(snapshot=None))
    connection.execute(update(AuditHead).values(number=ROWS))


def _with_templates(settings, count):
    database = Database(settings.sqlalchemy_url, append_notes)
    migrate(database)
    with database.connection() as connection:
        fill(connection, Table.metadata)
        _make_true(connection)
        row = connection.execute(select(Template.__table__)).mappings().first()
        rows = [
            {**row, "number": 10 + n, "id": str(n), "vector": bytes(1024)} for n in range(count)
        ]
        connection.execute(Template.__table__.insert(), rows)
    database.close()


class TestCommands:
    @pytest.fixture
    def run(self, monkeypatch):
        monkeypatch.delenv("MUSTER_EXPORT_PASSPHRASE", raising=False)

        def run(*arguments, status=0):
            result = CliRunner().invoke(main, [*map(str, arguments)])
            assert result.exit_code == status, result.output
            return result.output

        return run

    @pytest.fixture
    def here(self, tmp_path, run):
        run("key", "create", "--role", "admin", "--data-dir", tmp_path / "here")
        return tmp_path / "here"

    def test_out_and_in_with_a_passphrase(self, here, run, tmp_path):
        (tmp_path / "pass").write_text("a passphrase\n")
        file, sealed = tmp_path / "muster.export", ("--passphrase-file", tmp_path / "pass")
        run("export", file, *sealed, "--data-dir", here)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        output = run("import", file, *sealed, "--data-dir", tmp_path / "there")
        assert "0 collections, 0 persons, 0 templates" in output
        listed = [run("key", "list", "--data-dir", one) for one in (here, tmp_path / "there")]
        assert listed[0] == listed[1]
        again = run("import", file, *sealed, "--data-dir", tmp_path / "there", status=1)
        assert "empty database, and this one holds 1 api keys" in again

    def test_what_is_there_is_not_overwritten_and_what_is_open_is_said(self, here, run, tmp_path):
        file = tmp_path / "muster.export"
        assert "not encrypted" in run("export", file, "--data-dir", here)
        assert "exists already" in run("export", file, "--data-dir", here, status=1)
        assert list(tmp_path.glob("*.partial")) == []

    def test_options_for_pictures_do_not_go_with_a_server(self, here, run, tmp_path):
        file = tmp_path / "muster.export"
        run("export", file, "--data-dir", here)
        output = run("import", file, "--force", "--data-dir", tmp_path / "there", status=2)
        assert "--force is for pictures" in output
        assert not (tmp_path / "there").exists()

    def test_a_database_that_was_not_migrated_is_said(self, run, tmp_path):
        output = run("export", tmp_path / "file", "--data-dir", tmp_path / "none", status=1)
        assert "there is no server's data" in output
        assert not (tmp_path / "file").exists()
