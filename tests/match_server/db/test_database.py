"""Reads with and without a session, queueing writers, and errors of the database."""

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import pytest
from sqlalchemy import bindparam, select, text, update

import match_server
from match_server.app import create_app
from match_server.container import build_services
from match_server.data_folder import page_secret
from match_server.db.database import Database
from match_server.db.fast_sql import insert_many
from match_server.db.tables import Collection, Counter, Person, Storage
from match_server.process.bootstrap import prepare
from match_server.services.audit.chain import append_notes
from match_server.services.change_feed import next_number, position
from match_server.services.faces.face_engine import FaceEngine
from match_server.settings import Settings
from shared.errors import ConfigurationError, Conflict, MalformedInput, MusterError, Unavailable
from tests.support.postgres import postgres
from tests.support.waiting import wait_until

_COLUMNS = (Person.number, Person.name, Person.meta, Person.expires_at, Person.created_at)
_SOME = (
    select(*_COLUMNS)
    .where(Person.number.in_(bindparam("numbers", expanding=True)), Person.name != bindparam("not"))
    .order_by(Person.number)
)


_SOME_PLAIN = _SOME.with_only_columns(*(one for one in _COLUMNS if one is not Person.meta))


@pytest.mark.parametrize("count", [1, 7, 8, 9, 40])
def test_a_read_without_a_session_answers_what_a_session_answers(api, count):
    for number in range(40):
        expires_at = "2030-01-01T00:00:00+02:00" if number % 2 else None
        api.person(f'P{number} "Zoë" 王', metadata={"floor": number}, expires_at=expires_at)
    database: Database = api.services.database
    params = {"numbers": list(range(1, count + 1)), "not": 'P3 "Zoë" 王'}
    with database.read() as session:
        expected = [tuple(row) for row in session.execute(_SOME, params)]
    assert database.execute(_SOME, params) == expected
    assert database.execute(_SOME_PLAIN, params) == [(*row[:2], *row[3:]) for row in expected]
    assert len(expected) == count - (count > 3)
    assert {type(row[2]) for row in expected} == {dict}
    if count > 1:
        assert expected[1][3] == datetime(2029, 12, 31, 22, tzinfo=UTC)


def test_a_read_without_a_session_finds_nobody(api):
    for some in (_SOME, _SOME_PLAIN):
        assert api.services.database.execute(some, {"numbers": [1, 2], "not": ""}) == []


def test_a_read_without_a_session_sees_every_commit_before_it_and_none_that_is_to_come(api):
    database: Database = api.services.database
    other = Database(database.url, append_notes)
    before = position(database)
    with other.write() as session:
        next_number(session, "changes")
        assert position(database) == before
    assert position(database) == before + 1
    other.close()


def test_an_error_of_the_driver_is_one_of_ours(api):
    broken = select(Collection.number).where(text("no_such_column = 1"))
    with pytest.raises(Unavailable, match="does not answer"):
        api.services.database.execute(broken, {})


def test_writers_of_one_process_queue_instead_of_sleeping(api):
    """With the busy handler of SQLite some of so many writers would sleep for seconds or fail."""
    database: Database = api.services.database
    before, barrier = position(database), threading.Barrier(32)

    def write(_number):
        barrier.wait(10)
        for _ in range(10):
            with database.write() as session:
                next_number(session, "changes")

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(write, range(32)))
    assert position(database) == before + 320


def test_writers_wait_for_many_short_writes_and_few_of_them_for_a_long_one(tmp_path, monkeypatch):
    monkeypatch.setattr("match_server.db.write_lock._LONG_S", 0.2)
    database = Database(f"sqlite:///{tmp_path / 'some.db'}", append_notes, waiting_writers=2)

    def write(seconds):
        with database.write() as session:
            session.execute(text("SELECT 1"))
            time.sleep(seconds)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(write, [0.05] * 8)) == [None] * 8
        with database.write():
            writers = [pool.submit(write, 0) for _ in range(8)]
            refused = list(islice(as_completed(writers), 6))
        assert not [one for one in refused if one.exception() is None]
        errors = [one.exception() for one in writers]
    assert [type(one) for one in errors if one is not None] == [Unavailable] * 6
    database.close()


def test_writers_of_several_processes_neither_lose_an_update_nor_wait_for_each_other(api):
    """Each reads a number and writes the next: correct only without another write in between."""
    databases = [Database(api.services.database.url, append_notes) for _ in range(3)]
    before = position(databases[0])

    def write(database):
        for _ in range(15):
            with database.write() as session:
                row = session.get(Counter, "changes")
                row.value = row.value + 1

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(write, databases * 4))
    assert position(databases[0]) == before + 180
    for database in databases:
        database.close()


def test_writers_that_take_rows_in_opposite_orders_cannot_wait_in_a_circle(api):
    """The second writer reads and locks nothing before the first has committed."""
    one, other = (Database(api.services.database.url, append_notes) for _ in range(2))
    first_has_its_row, second_is_in = threading.Event(), threading.Event()

    def counter_first():
        with one.write() as session:
            next_number(session, "changes")
            first_has_its_row.set()
            overtaken = second_is_in.wait(0.5)
            session.execute(update(Collection).values(person_count=Collection.person_count + 1))
        return overtaken

    def collection_first():
        first_has_its_row.wait(20)
        with other.write() as session:
            session.execute(update(Collection).values(person_count=Collection.person_count + 1))
            second_is_in.set()
            next_number(session, "changes")

    with ThreadPoolExecutor(2) as pool:
        second = pool.submit(collection_first)
        assert pool.submit(counter_first).result(30) is False
        second.result(30)
    with one.read() as session:
        assert session.scalars(select(Collection.person_count)).all() == [2]
    one.close()
    other.close()


def test_nobody_but_the_one_seam_opens_a_connection():
    """Otherwise a writer could skip the lock with which all others begin."""
    package = Path(match_server.__file__).parent
    opening = re.compile(
        r"create_engine\(|sessionmaker|\bSession\(|raw_connection\(|psycopg\.connect"
    )
    actual = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if opening.search(path.read_text())
    }
    assert actual == {"db/engines.py", "db/database.py"}


def test_a_reader_sees_one_state_and_cannot_write(api):
    database: Database = api.services.database
    with database.read() as session:
        before = position(session)
        api.person("Ann")
        assert position(session) == before
        assert session.scalars(select(Person.name)).all() == []
    assert position(database) > before


def test_who_waits_is_woken_by_a_write_and_never_misses_one(api):
    database: Database = api.services.database
    signals = database.commit_signal.signals
    writer = threading.Timer(0.3, lambda: api.person("Ann"))
    writer.start()
    database.commit_signal.wait(signals, poll_s=30)
    writer.join()
    signals = database.commit_signal.signals
    api.person("Bob")  # before it waits
    started_s = time.monotonic()
    database.commit_signal.wait(signals, poll_s=30)
    assert database.commit_signal.signals > signals
    assert time.monotonic() - started_s < 25


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://a:hush@h/d", "unknown driver 'mysql'"),
        ("postgresql+psycopg2://a:hush@h/d", "unknown driver"),
        ("hush", "invalid URL"),
        ("postgresql://a:hush@h:5432,g:5432/d", "host=ONE:5432&host=TWO:5432"),
    ],
)
def test_a_database_that_is_not_supported_is_said_without_its_password(url, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        Database(url, append_notes)
    assert "hush" not in caught.value.message


@pytest.mark.parametrize("start", ["postgres", "postgresql", "postgresql+psycopg"])
def test_a_url_of_postgresql_needs_no_drivers_name(start):
    assert Database(f"{start}://a:b@h/d", append_notes).url.drivername == "postgresql+psycopg"


class TestPostgreSQL:
    """Tests that need a database server in a process of its own."""

    @pytest.fixture
    def url(self, postgresql):
        server, migrated = postgresql
        name = server.create(migrated)
        yield server.url(name)
        server.drop(name)

    @pytest.fixture
    def database(self, url):
        made = Database(url, append_notes, connections=4)
        yield made
        made.close()

    def test_a_restart_is_503_for_a_while_and_forgotten_afterwards(
        self, make_durable, helpers, clock, tmp_path
    ):
        server, api = make_durable
        api.person("Ann", helpers.unit_vector(1))
        assert api.names(helpers.unit_vector(1)) == ["Ann"]
        server.kill()
        for _ in range(3):
            assert api.call("GET", "/v1/collections").status_code == 503
            response = api.call("POST", "/v1/collections/default/persons", json={"name": "Bob"})
            assert response.status_code == 503
            assert response.headers["Retry-After"]
        server.start_again()
        api.person("Cleo", helpers.unit_vector(2))
        assert api.names(helpers.unit_vector(2), limit=1) == ["Cleo"]
        listed = api.ok("GET", "/v1/collections/default/persons")["items"]
        assert [one["name"] for one in listed] == ["Ann", "Cleo"]

    @pytest.fixture
    def make_durable(self, tmp_path, clock, helpers):
        with postgres(durable=True) as server:
            settings = Settings(
                data_dir=tmp_path / "durable", database_url=server.url(server.create())
            )
            prepare(settings)
            faces = FaceEngine(helpers.MODEL, 512, helpers.PaintedFaces, settings.picture_limits)
            services = build_services(settings, faces=faces, clock=clock)
            services.first_start()
            app = create_app(services, page_secret(settings.data_dir), follow=False)
            yield server, helpers.Api(app.test_client(), services, clock)
            services.close()

    def test_a_write_of_another_process_wakes_who_waits(self, database, url):
        deadline_s = time.monotonic() + 30
        while not database.commit_signal._listening and time.monotonic() < deadline_s:
            database.commit_signal.wait(database.commit_signal.signals, poll_s=0.01)
        other = Database(url, append_notes)
        for _ in range(3):
            signals = database.commit_signal.signals
            with other.write() as session:
                next_number(session, "changes")
            # without looking into the database
            wait_until(
                lambda signals=signals: database.commit_signal.signals > signals,
                "the commit is signalled",
            )
        other.close()

    def test_a_connection_that_breaks_at_the_commit_leaves_it_open_what_is_stored(self, database):
        with database.connection() as connection:
            for statement in _DIE_AT_COMMIT:
                connection.exec_driver_sql(statement)

        def write():
            with database.write() as session:
                next_number(session, "changes")

        with pytest.raises(Unavailable, match="before it confirmed") as caught:
            write()
        assert caught.value.details == {"stored": "unknown"}
        assert position(database) == 0

    def test_a_process_opens_no_more_connections_than_it_may(self, database, url):
        """32 threads share these connections."""
        held = []

        def read(_number):
            with database.read() as session:
                position(session)
                held.append(session.scalar(_CONNECTIONS, {"name": database.url.database}))

        with ThreadPoolExecutor(32) as pool:
            list(pool.map(read, range(200)))
        assert len(held) == 200
        assert max(held) <= 4

    def test_a_reader_that_tries_to_write_is_refused(self, database):
        def write():
            with database.read() as session:
                next_number(session, "changes")

        with pytest.raises(Unavailable):
            write()
        assert position(database) == 0

    def test_a_value_that_it_cannot_hold_is_malformed(self, database):
        def write(name):
            with database.write() as session:
                session.add(Storage(name=name, uri="x", created_at=datetime.now(UTC)))

        for name in ("with \0 in it", "x" * 64):
            with pytest.raises(MalformedInput, match="cannot hold"):
                write(name)


_CONNECTIONS = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = :name AND application_name = 'muster'"
)
_DIE_AT_COMMIT = (
    "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$",
    "CREATE CONSTRAINT TRIGGER die AFTER UPDATE ON counters "
    "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION die()",
)


def test_rows_inserted_together_come_all_or_not_at_all_and_say_what_contradicts(api):
    database: Database = api.services.database
    columns = ["name", "uri", "created_at"]
    now = datetime(2026, 11, 22, 12, tzinfo=UTC)

    def insert(*names):
        rows = ((name, f"file:///{name}", now) for name in names)
        with database.write() as session:
            insert_many(session.connection(), Storage.__table__, columns, rows, {})

    insert("a", "b")
    insert()
    with pytest.raises(Conflict):
        insert("c", "a")
    with pytest.raises(MusterError):
        insert("d", None)
    insert("e")
    with database.read() as session:
        stored = session.scalars(select(Storage).order_by(Storage.number)).all()
        assert [(one.name, one.created_at) for one in stored] == [(one, now) for one in "abe"]


@pytest.mark.backends("postgresql")
def test_a_connection_that_breaks_while_rows_are_inserted_is_said_and_replaced(api):
    database: Database = api.services.database
    now = datetime(2026, 11, 22, 12, tzinfo=UTC)

    def broken(session):
        yield ("a", "file:///a", now)
        number = session.connection().connection.driver_connection.info.backend_pid
        with database.read() as other:
            other.execute(text("SELECT pg_terminate_backend(:number)"), {"number": number})
        for place in range(100_000):  # more than what lies in buffers
            yield (f"n{place}", "file:///a", now)

    columns = ["name", "uri", "created_at"]
    with pytest.raises(Unavailable), database.write() as session:
        insert_many(session.connection(), Storage.__table__, columns, broken(session), {})
    with database.write() as session:
        rows = [("b", "file:///b", now)]
        insert_many(session.connection(), Storage.__table__, columns, rows, {})
    with database.read() as session:
        assert session.scalars(select(Storage.name)).all() == ["b"]
