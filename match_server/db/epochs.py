"""When an epoch of the change feed begins (docs/feed.md).

Every write to PostgreSQL first compares which run of which server it is on with the run that the
present epoch is of. So no number of the feed is given to a change before the epoch has changed,
and reading needs no comparison.
"""

import logging
import secrets
from datetime import UTC, datetime
from typing import Any, Final, Literal, cast

from sqlalchemy import Connection, insert, select, update
from sqlalchemy import Table as SqlTable

from match_server.db.commit_signal import CHANNEL
from match_server.db.tables import Counter, Epoch

log = logging.getLogger(__name__)

Why = Literal["restarted", "promoted", "moved", "imported", "restored"]

_WRITERS = 0x4D75737465722077  # the key of the advisory lock: any number, the same in every process
_LOCK = f"SELECT pg_advisory_xact_lock({_WRITERS}), pg_notify('{CHANNEL}', '')"
# A promoted standby, or a server of which an older state was restored, has another timeline or
# another start; a copy of the database beside it, another number. Every role may read these.
_INCARNATION: Final = (
    "concat_ws('/', (SELECT oid FROM pg_database WHERE datname = current_database()), "
    "left(pg_walfile_name(pg_current_wal_lsn()), 8), "
    "extract(epoch FROM pg_postmaster_start_time()))"
)
_KNOWN = "(SELECT incarnation FROM epochs ORDER BY number DESC LIMIT 1)"
_EPOCHS = cast(SqlTable, Epoch.__table__)
_LAST = select(_EPOCHS.c.number, _EPOCHS.c.incarnation).order_by(_EPOCHS.c.number.desc()).limit(1)
_CHANGES = select(Counter.value).where(Counter.name == "changes")


def lock_writers(connection: Connection) -> None:
    """Take the lock of writers in PostgreSQL until the transaction ends.

    So there is one writer at a time among all processes, as in SQLite. Nearly every write ends with
    the counter of the change feed, whose row is locked until the commit is on the disk, so writes
    queue in any case. Because they queue at the beginning, what a write reads does not change until
    its commit, and no two writes can deadlock. Processes that listen get the notification after the
    commit.
    """
    connection.exec_driver_sql(_LOCK)


def lock_writers_of_feed(connection: Connection) -> None:
    """As `lock_writers`, and begin a new epoch if the last write was to another PostgreSQL."""
    *_, incarnation, known = connection.exec_driver_sql(f"{_LOCK}, {_INCARNATION}, {_KNOWN}").one()
    if incarnation == known:
        return
    number, known = connection.execute(_LAST).one()  # again: another writer had the lock before
    if known is None:  # a new or imported database
        row = update(_EPOCHS).where(_EPOCHS.c.number == number)
        connection.execute(row.values(incarnation=incarnation))
    elif known != incarnation:
        begin_epoch(connection, _why(known, incarnation))


def begin_epoch(connection: Connection, why: Why) -> None:
    """Begin a new epoch, in a transaction that has the lock of writers."""
    number = connection.execute(_LAST).one()[0] + 1
    reached = connection.scalar(_CHANGES) or 0
    incarnation: Any = None
    if connection.dialect.name == "postgresql":
        incarnation = connection.exec_driver_sql(f"SELECT {_INCARNATION}").scalar_one()
    connection.execute(
        insert(_EPOCHS).values(
            number=number,
            id=secrets.token_hex(8),
            begins_after=reached,
            at=datetime.now(UTC),
            why=why,
            incarnation=incarnation,
        )
    )
    log.log(
        logging.INFO if why == "restarted" else logging.WARNING,
        "Began an epoch of the change feed",
        extra={"epoch": number, "why": why, "begins_after": reached},
    )


def _why(known: str, incarnation: str) -> Why:
    database, timeline, _ = zip(known.split("/"), incarnation.split("/"), strict=True)
    if len(set(timeline)) > 1:
        return "promoted"
    return "moved" if len(set(database)) > 1 else "restarted"
