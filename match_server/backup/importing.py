"""`match-server import` of a whole server: all or nothing, into an empty database."""

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
from match_server.backup.files import Files, NamedFile, forget, require_names, storages_named
from match_server.backup.rows import Batch, Row, TableRows, continue_numbers, counted
from match_server.db.database import Database, sqlite_path
from match_server.db.epochs import begin_epoch
from match_server.db.migrations import current_on, head_revision, known_revisions, migrate_on
from match_server.db.tables import ServerProcess
from match_server.services.audit.chain import append_notes
from match_server.settings import Settings
from shared.errors import ConfigurationError, Conflict, Damaged

Progress = Callable[[int], None]
"""Called with the number of bytes of the file that were read."""


_Word = Annotated[str, Field(max_length=100, pattern="^[ -~]*$")]  # shown in messages
_UNKNOWN_SHOWN = 10


class _Server(BaseModel):
    """The first record of a file."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["server"]
    migration: _Word
    database: _Word
    at: _Word
    tables: dict[str, list[str]]  # columns, in the order of the rows
    numbers: dict[str, tuple[str, Annotated[int, Field(ge=0, lt=2**53)]]]


@dataclass(slots=True)
class Imported:
    """The result of an import."""

    at: str = ""  # the time of the export
    rows: dict[str, int] = field(default_factory=dict)  # by table
    files: int = 0
    gone: int = 0  # files that did not exist at the export


def is_export(path: Path) -> bool:
    """Whether `match-server export` wrote this file."""
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
    """Fill an empty database and data folder with the content of a file.

    One transaction inserts all rows and ends only after the last byte was read and verified, so an
    error before leaves everything as it was. Rows of an older version are inserted at its migration
    and then migrated. Outside of the data folder only `storages` (their URIs) are written to. An
    epoch of the change feed begins with it. The next start of the server repeats the erasures of
    its journal. Raises Conflict if the database is not empty; ConfigurationError for a file of a
    newer version or another kind, or one that names other storages; KeyMissing for a wrong
    passphrase; Damaged.
    """
    database = Database(settings.sqlalchemy_url, append_notes)
    if (file := sqlite_path(database.url)) is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    files = Files(settings.data_dir)
    try:
        with source.open("rb") as stream, database.connection(patient=True) as connection:
            records = iter(Reader(stream, passphrase))
            run = _Import(connection, files, records, storages, lambda: progress(stream.tell()))
            run.fill()
            # Segments of an earlier server in this folder.
            shutil.rmtree(settings.data_dir / "galleries", ignore_errors=True)
        return run.result
    except BaseException:
        files.take_back()
        raise
    finally:
        database.close()


class _Import:
    def __init__(
        self,
        connection: Connection,
        files: Files,
        records: Iterator[Record],
        storages: Container[str],
        progress: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._files = files
        self._records = records
        self._storages = storages
        self._progress = progress
        self._tables: dict[str, TableRows] = {}
        self.result = Imported()

    def fill(self) -> None:
        server = self._server()
        if not server.numbers.keys() <= server.tables.keys():
            raise Damaged("the file has numbers of tables that it does not hold")
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
            raise Damaged("the file has records after its end")
        continue_numbers(self._connection, server.numbers)
        migrate_on(self._connection, "head")
        begin_epoch(self._connection, "imported")
        self._connection.execute(delete(ServerProcess))  # of the machines of that server
        require_names(self._connection)
        self._require_known(storages_named(self._connection))

    def _server(self) -> _Server:
        first = next(self._records, None)
        try:
            server = _Server.model_validate(None if first is None else first.head)
        except ValidationError:
            raise Damaged("the file does not describe its content") from None
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
                named = _checked(lambda: NamedFile(**_name(head)))
                self._require_known({named.storage} - {None})
                self._files.put(named, record.payload)
                self.result.files += 1
            case "gone":
                forget(self._connection, _checked(lambda: str(head["name"])))
                self.result.gone += 1
            case _:
                raise Damaged("the file holds a record of an unknown kind")

    def _require_known(self, uris: set[str]) -> None:
        unknown = sorted(uri for uri in uris if uri not in self._storages)
        if unknown:
            raise ConfigurationError(
                f"the file keeps photos outside of the data folder, in {_shown(unknown)}: if "
                "that is meant, give --allow-storage with each of these"
            )

    def _end(self, sums: dict[str, Any]) -> None:
        if (sums.get("rows"), sums.get("files")) != (self.result.rows, self.result.files):
            raise Damaged("the file does not hold as many rows and files as its end says")


def require_empty(connection: Connection) -> None:
    """Raises Conflict if the database holds more rows than its migrations insert."""
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
    counts = counted(connection, _reflected(connection))
    more = {name: counts[name] for name in counts if counts[name] != expected.get(name)}
    if more:
        holds = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in more.items())
        raise Conflict(
            f"a whole server is imported into an empty database, and this one holds {holds}: give "
            "another --data-dir or database_url"
        )


def _shape(connection: Connection, server: _Server) -> MetaData:
    """Migrate the empty database to the version of the file. Returns its tables, all empty."""
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
    """The first of them, shortened, because the author of the file chose them."""
    more = ", …" if len(uris) > _UNKNOWN_SHOWN else ""
    return ", ".join(repr(uri[:200]) for uri in uris[:_UNKNOWN_SHOWN]) + more


def _checked(read: Callable[[], Any]) -> Any:
    """Read a record. Raises Damaged for any content that does not fit, also of a forged file."""
    try:
        return read()
    except (KeyError, TypeError, ValueError, IndexError, ArithmeticError, AttributeError):
        raise Damaged("a record in the file is invalid") from None
    except (IntegrityError, DataError):
        raise Damaged("rows in the file contradict each other") from None
