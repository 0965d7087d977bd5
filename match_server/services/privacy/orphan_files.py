"""Files that nothing names: what a process left that died between writing and committing."""

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

_GRACE_S: Final = 3600.0  # far longer than a transaction may take


class OrphanFiles:
    """Looks through the photos and thumbnails in the data folder, and deletes what is nobody's.

    Storages elsewhere are not listed: they may hold what others have put there.
    """

    def __init__(self, root: Path, database: Database) -> None:
        self._root = root
        self._database = database

    def run(self) -> int:
        """How many files went."""
        gone = self._clear("photos", Image.file) + self._clear("snapshots", Event.snapshot)
        if gone:
            log.warning("files of writes that never came to an end are deleted", extra={"n": gone})
        return gone

    def _clear(self, kind: str, column: InstrumentedAttribute[str | None]) -> int:
        gone = 0
        for names in batches(self._old(kind)):
            for name in set(names) - self._named(column, names):
                (self._root / name).unlink(missing_ok=True)
                gone += 1
        return gone

    def _named(
        self, column: InstrumentedAttribute[str | None], names: Sequence[str]
    ) -> set[str | None]:
        with self._database.read() as session:
            return set(session.scalars(select(column).where(column.in_(names))))

    def _old(self, kind: str) -> list[str]:
        """Names of the files that have lain there for a while."""
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
