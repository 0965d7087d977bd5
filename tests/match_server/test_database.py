"""Reads without a session say what a session says, and see what was committed; writers queue."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from sqlalchemy import bindparam, select, text

from match_server.database import Database
from match_server.services.changes import next_number, position
from match_server.tables import Collection, Person
from shared.errors import Unavailable

_COLUMNS = (Person.number, Person.name, Person.meta, Person.expires_at, Person.created_at)
_SOME = (
    select(*_COLUMNS)
    .where(Person.number.in_(bindparam("numbers", expanding=True)), Person.name != bindparam("not"))
    .order_by(Person.number)
)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 40])
def test_a_read_without_a_session_answers_what_a_session_answers(api, count):
    for number in range(40):
        expires_at = "2030-01-01T00:00:00+02:00" if number % 2 else None
        api.person(f"P{number}", metadata={"floor": number}, expires_at=expires_at)
    database: Database = api.services.database
    params = {"numbers": list(range(1, count + 1)), "not": "P3"}
    with database.read() as session:
        expected = [tuple(row) for row in session.execute(_SOME, params)]
    assert database.execute(_SOME, params) == expected
    assert len(expected) == count - (count > 3)
    assert {type(row[2]) for row in expected} == {dict}
    if count > 1:
        assert expected[1][3] == datetime(2029, 12, 31, 22, tzinfo=UTC)


def test_a_read_without_a_session_sees_every_commit_before_it_and_none_that_is_to_come(api):
    database: Database = api.services.database
    other = Database(database.url)
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
    """With SQLite's own waiting, some of so many would sleep for seconds, or give up."""
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
