"""`match-server import` of a whole server: into an empty database, completely or not at all."""

import shutil
import tempfile
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import Connection, MetaData, delete
from sqlalchemy.exc import DataError, IntegrityError

from match_server.backup.container import MAGIC, Reader, Record
from match_server.backup.files import Named, Places, forget, require_names, storages_named
from match_server.backup.rows import Batch, Row, TableRows, continue_numbers, counted
from match_server.db.database import Database, sqlite_path
from match_server.db.migrations import current_on, head_revision, known_revisions, migrate_on
from match_server.services.audit.chain import append_notes
from match_server.services.privacy.erasure_journal import ErasureJournal
from match_server.settings import Settings
from shared.clock import SystemClock
from shared.errors import ConfigurationError, Conflict, Damaged

Progress = Callable[[int], None]
"""Called now and then with how many bytes of the file were read."""


_Word = Annotated[str, Field(max_length=100, pattern="^[ -~]*$")]  # it is shown
_UNKNOWN_SHOWN = 10


class _Server(BaseModel):
    """The first record."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["server"]
    migration: _Word
    database: _Word
    at: _Word
    tables: dict[str, list[str]]  # columns, in the order of the rows
    numbers: dict[str, tuple[str, Annotated[int, Field(ge=0, lt=2**53)]]]


@dataclass(slots=True)
class Imported:
    """What was brought in."""

    at: str = ""  # the moment that the file holds
    rows: dict[str, int] = field(default_factory=dict)  # by table
    files: int = 0
    gone: int = 0  # files that were not there any more when the file was written


def is_export(path: Path) -> bool:
    """Whether `match-server export` has written this file."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def restore(
    settings: Settings,
    source: Path,
    passphrase: str | None = None,
    *,
    storages: Container[str] = (),
    progress: Progress = lambda done: None,
) -> Imported:
    """Fill an empty database and data folder with what a file holds.

    All rows come in one transaction, which ends only after the last byte was read and found right:
    whatever goes wrong before leaves everything as it was. A file of an older version is filled in
    at its own migration and brought up to date. Outside of the data folder nothing is written but
    to `storages` (their URIs). The next start of the server erases again whom its journal of
    erasures names, and lets followers begin anew. Raises Conflict when the database is not empty;
    ConfigurationError for a file of a newer version or another kind, or one that names other
    storages; KeyMissing for a wrong passphrase; Damaged.
    """
    database = Database(settings.sqlalchemy_url, append_notes)
    if (file := sqlite_path(database.url)) is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    places = Places(settings.data_dir)
    try:
        with source.open("rb") as stream, database.connection(patient=True) as connection:
            records = iter(Reader(stream, passphrase))
            run = _Import(connection, places, records, storages, lambda: progress(stream.tell()))
            run.fill()
            # What follows the commit is done at the next start, also when this one is killed.
            ErasureJournal(settings.data_dir, database, SystemClock()).expect_restored()
            # Segments of whatever this folder served before.
            shutil.rmtree(settings.data_dir / "galleries", ignore_errors=True)
        return run.result
    except BaseException:
        places.take_back()
        raise
    finally:
        database.close()


class _Import:
    def __init__(
        self,
        connection: Connection,
        places: Places,
        records: Iterator[Record],
        storages: Container[str],
        progress: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._places = places
        self._records = records
        self._storages = storages
        self._progress = progress
        self._tables: dict[str, TableRows] = {}
        self.result = Imported()

    def fill(self) -> None:
        server = self._server()
        if not server.numbers.keys() <= server.tables.keys():
            raise Damaged("the file numbers tables that it does not hold")
        require_empty(self._connection)
        metadata = _shape(self._connection, server)
        self.result.at = server.at
        self.result.rows = dict.fromkeys(server.tables, 0)
        self._tables = {
            name: TableRows(metadata.tables[name], columns)
            for name, columns in server.tables.items()
        }
        for record in self._records:
            if record.head.get("kind") == "end":
                self._end(record.head)
                break
            self._take(record)
            self._progress()
        else:
            raise Damaged("the file has no end")
        if next(self._records, None) is not None:
            raise Damaged("the file goes on after its end")
        continue_numbers(self._connection, server.numbers)
        migrate_on(self._connection, "head")
        require_names(self._connection)
        self._require_known(storages_named(self._connection))

    def _server(self) -> _Server:
        first = next(self._records, None)
        try:
            server = _Server.model_validate(None if first is None else first.head)
        except ValidationError:
            raise Damaged("the file does not say what it holds") from None
        if server.migration not in known_revisions():
            raise ConfigurationError(
                f"the file is of a newer version of Muster (migration {server.migration}, this one "
                f"knows up to {head_revision()}): update this server first"
            )
        return server

    def _take(self, record: Record) -> None:
        head = record.head
        match head.get("kind"):
            case "rows":
                table = _checked(lambda: self._tables[head["table"]])
                rows: list[Row] = _checked(lambda: _lists(head["rows"]))
                _checked(lambda: table.write(self._connection, Batch(rows, record.payload)))
                self.result.rows[head["table"]] += len(rows)
            case "file":
                named = _checked(lambda: Named(**_name(head)))
                self._require_known({named.storage} - {None})
                self._places.put(named, record.payload)
                self.result.files += 1
            case "gone":
                forget(self._connection, _checked(lambda: str(head["name"])))
                self.result.gone += 1
            case _:
                raise Damaged("the file holds something that is not known")

    def _require_known(self, uris: set[str]) -> None:
        unknown = sorted(uri for uri in uris if uri not in self._storages)
        if unknown:
            raise ConfigurationError(
                f"the file keeps photos outside of the data folder, in {_shown(unknown)}: if "
                "that is meant, give --allow-storage with each of these"
            )

    def _end(self, sums: dict[str, Any]) -> None:
        if (sums.get("rows"), sums.get("files")) != (self.result.rows, self.result.files):
            raise Damaged("the file does not hold as much as it says at its end")


def require_empty(connection: Connection) -> None:
    """Raises Conflict when there is more in the database than its migrations put into it."""
    revision = current_on(connection)
    if revision is None:
        return
    with tempfile.TemporaryDirectory(prefix="muster-") as folder:
        fresh = Database(f"sqlite:///{Path(folder) / 'fresh.db'}", append_notes)
        try:
            with fresh.connection() as other:
                migrate_on(other, revision)
                expected = counted(other, _reflected(other))
        finally:
            fresh.close()
    found = counted(connection, _reflected(connection))
    more = {name: found[name] for name in found if found[name] != expected.get(name)}
    if more:
        holds = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in more.items())
        raise Conflict(
            f"a whole server is imported into an empty database, and this one holds {holds}: give "
            "another --data-dir or database_url"
        )


def _shape(connection: Connection, server: _Server) -> MetaData:
    """Bring the empty database to the migration of the file; answers its tables, all empty."""
    migrate_on(connection, server.migration)
    metadata = _reflected(connection)
    if set(metadata.tables) != set(server.tables):
        raise Damaged("the file's tables are not those of its migration")
    for table in reversed(metadata.sorted_tables):
        if TableRows(table).count(connection):
            connection.execute(delete(table))
    return metadata


def _reflected(connection: Connection) -> MetaData:
    metadata = MetaData()
    metadata.reflect(connection)
    metadata.remove(metadata.tables["alembic_version"])
    return metadata


def _name(head: dict[str, Any]) -> dict[str, Any]:
    name, storage = head["name"], head["storage"]
    if not isinstance(name, str) or not isinstance(storage, str | None):
        raise TypeError
    return {"name": name, "storage": storage}


def _lists(rows: Any) -> list[Row]:
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise TypeError
    return rows


def _shown(uris: list[str]) -> str:
    """Some of them, for people: whoever made the file chose them."""
    more = ", …" if len(uris) > _UNKNOWN_SHOWN else ""
    return ", ".join(repr(uri[:200]) for uri in uris[:_UNKNOWN_SHOWN]) + more


def _checked(read: Callable[[], Any]) -> Any:
    """What a record says, which may be anything where somebody forged it."""
    try:
        return read()
    except (KeyError, TypeError, ValueError, IndexError, ArithmeticError, AttributeError):
        raise Damaged("a record in the file is not what it should be") from None
    except (IntegrityError, DataError):
        raise Damaged("rows in the file contradict each other") from None
