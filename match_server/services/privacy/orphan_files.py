"""Deleting files without a row: a process was killed between writing and committing them."""

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import InstrumentedAttribute

from match_server.db.database import Database
from match_server.db.tables import Event, Image
from match_server.services.lookups import batches

log = logging.getLogger(__name__)

_GRACE_S: Final = 3600.0  # much longer than any transaction


class OrphanFiles:
    """Deletes photos and thumbnails in the data folder that no row names.

    Other storages are not searched, because they may hold files of other programs.
    """

    def __init__(self, root: Path, database: Database) -> None:
        self._root = root
        self._database = database

    def run(self) -> int:
        """Delete such files. Returns their number."""
        count = self._clear("photos", Image.file) + self._clear("snapshots", Event.snapshot)
        if count:
            log.warning("Deleted files of interrupted writes", extra={"n": count})
        return count

    def _clear(self, kind: str, column: InstrumentedAttribute[str | None]) -> int:
        count = 0
        for names in batches(self._old(kind)):
            for name in set(names) - self._named(column, names):
                (self._root / name).unlink(missing_ok=True)
                count += 1
        return count

    def _named(
        self, column: InstrumentedAttribute[str | None], names: Sequence[str]
    ) -> set[str | None]:
        with self._database.read() as session:
            return set(session.scalars(select(column).where(column.in_(names))))

    def _old(self, kind: str) -> list[str]:
        """The names of files that are older than the grace period."""
        before_s = time.time() - _GRACE_S
        return [str(path.relative_to(self._root)) for path in self._files(kind, before_s)]

    def _files(self, kind: str, before_s: float) -> Iterator[Path]:
        for path in (self._root / kind).rglob("*"):
            try:
                status = path.stat()
            except FileNotFoundError:  # erased meanwhile
                continue
            if path.is_file() and status.st_mtime < before_s:
                yield path
