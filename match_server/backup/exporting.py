"""`match-server export`: all data of the server at one moment, in one file."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select

from match_server.backup.container import Writer
from match_server.backup.files import Files, files_named, is_named
from match_server.backup.rows import TableRows, counted, highest_numbers
from match_server.data_folder import require_data_folder
from match_server.db.database import Database
from match_server.db.migrations import current_revision, head_revision
from match_server.db.tables import Collection, Table
from match_server.services.audit.chain import Note, append_notes, note
from match_server.settings import Settings
from shared.clock import Clock
from shared.errors import ConfigurationError, KeptElsewhere, NotFound
from shared.files import durable_file

Progress = Callable[[int, int], None]
"""Called with the number of rows and files so far, and the number of all rows."""


@dataclass(slots=True)
class Exported:
    """The content of a file."""

    rows: dict[str, int] = field(default_factory=dict)  # by table
    files: int = 0
    missing: list[str] = field(default_factory=list)
    """Files that the database names and that do not exist."""
    left: dict[str, int] = field(default_factory=dict)
    """The number of files that stay in a bucket, by its URI."""
    encrypted_collections: list[str] = field(default_factory=list)
    """The file holds their templates and photos encrypted, and not the master key."""


def export(
    settings: Settings,
    clock: Clock,
    target: Path,
    passphrase: str | None = None,
    *,
    buckets: bool = False,
    progress: Progress = lambda done, total: None,
) -> Exported:
    """Write a new file, also while the server runs: with the state at the beginning.

    With `buckets`, photos in S3 are copied into the file; otherwise they stay in the bucket, which
    the new server must be able to reach. The audit log gets an entry, also that in the file.
    Raises ConfigurationError if there is no database, if its version is not that of the code, or
    if the target exists.
    """
    database = Database(settings.sqlalchemy_url, append_notes)
    require_data_folder(settings)
    if target.exists():
        raise ConfigurationError(f"{target} exists already; choose another name, or delete it")
    try:
        revision = current_revision(database)
        if revision != head_revision():
            raise ConfigurationError(
                f"the database is at migration {revision}, this version needs {head_revision()}: "
                f"run `{settings.command('migrate')}` first"
            )
        details = {"encrypted": passphrase is not None, "buckets": buckets}
        with database.write() as session:
            note(session, Note("server_exported", clock.now(), details=details))
        run = _Export(database, Files(settings.data_dir), buckets, progress)
        about = {
            "kind": "server",
            "migration": revision,
            "database": database.url.get_backend_name(),
            "at": clock.now().isoformat(),
        }
        _in_new_file(target, lambda stream: run.write(Writer(stream, passphrase), about))
        return run.result
    finally:
        database.close()


class _Export:
    def __init__(self, database: Database, files: Files, buckets: bool, progress: Progress) -> None:
        self._database = database
        self._stored = files
        self._buckets = buckets
        self._progress = progress
        self.result = Exported()

    def write(self, writer: Writer, about: dict[str, Any]) -> None:
        with self._database.read(patient=True) as session:
            connection = session.connection()
            self._rows(writer, connection, about)
            self._files(writer, connection)
            encrypted = select(Collection.name).where(Collection.encrypted)
            self.result.encrypted_collections = list(session.scalars(encrypted))
        sums = {"rows": self.result.rows, "files": self.result.files}
        writer.add({"kind": "end", **sums})
        writer.finish()

    def _rows(self, writer: Writer, connection: Connection, about: dict[str, Any]) -> None:
        metadata = Table.metadata
        total, done = sum(counted(connection, metadata).values()), 0
        tables = {table.name: TableRows(table) for table in metadata.sorted_tables}
        columns = {name: rows.columns for name, rows in tables.items()}
        writer.add({**about, "tables": columns, "numbers": highest_numbers(connection, metadata)})
        for name, rows in tables.items():
            self.result.rows[name] = 0
            for batch in rows.read(connection):
                writer.add({"kind": "rows", "table": name, "rows": batch.rows}, batch.payload)
                self.result.rows[name] += len(batch.rows)
                done += len(batch.rows)
                self._progress(done, total)

    def _files(self, writer: Writer, connection: Connection) -> None:
        for file in files_named(connection):
            if file.storage is not None and file.storage.startswith("s3:") and not self._buckets:
                self.result.left[file.storage] = self.result.left.get(file.storage, 0) + 1
                continue
            head = {"name": file.name, "storage": file.storage}
            try:
                data = self._stored.read(file)
            except (NotFound, KeptElsewhere):
                # Erased since the beginning, lost before, or on another machine.
                writer.add({"kind": "gone", **head})
                with self._database.read() as now:
                    if is_named(now.connection(), file):
                        self.result.missing.append(file.name)
            else:
                writer.add({"kind": "file", **head}, data)
                self.result.files += 1


def _in_new_file(target: Path, write: Callable[[Any], None]) -> None:
    """Write a file private to this user; it gets its name when it is complete and on the disk."""
    try:
        with durable_file(target, mode=0o600, suffix=".partial") as stream:
            write(stream)
    except OSError as error:
        raise ConfigurationError(f"{target} cannot be written: {error.strerror}") from error
