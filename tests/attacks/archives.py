"""Modified export files: refused with a MusterError, and never imported in part."""

import contextlib
import io
import json
import random
import resource
import shutil
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from sqlalchemy import update

from match_server.backup.container import Reader, Record, Writer
from match_server.backup.exporting import export
from match_server.backup.importing import restore
from match_server.data_folder import make_data_folder
from match_server.db.database import Database
from match_server.db.tables import AuditHead, Event, Image, Storage, Table
from match_server.process.bootstrap import prepare
from match_server.services.audit.chain import append_notes
from match_server.settings import Settings
from shared.clock import SystemClock
from shared.errors import MusterError
from tests.support.every_table import ROWS, fill

_MOST_BYTES: Final = 1 << 30  # that a small file may make this process grow by
_SHARE_WHOLE: Final = 0.1  # of files that are imported, the others are only read: that is quick
_VALUES: Final = (
    None, True, -1, 0, 2**31, 2**63, 2**64, 10**400, 1.5, float("inf"), "", "\0", "\ud800",
    "../../x", "/etc/passwd", "file:///etc", [], [[]], {}, {"a": []}, "9" * 5000,
)  # fmt: skip


def records_of(folder: Path) -> list[Record]:
    """Returns the records of an export of a small server, with rows in every table."""
    settings = Settings(data_dir=folder / "server")
    prepare(settings)
    database = Database(settings.sqlalchemy_url, append_notes)
    with database.connection() as connection:
        fill(connection, Table.metadata)
        connection.execute(update(Image).values(file=None))
        connection.execute(update(Event).values(snapshot=None))
        connection.execute(update(AuditHead).values(number=ROWS))
        connection.execute(update(Storage).values(uri="file:///storage"))
    database.close()
    export(settings, SystemClock(), folder / "export")
    with (folder / "export").open("rb") as stream:
        records = list(Reader(stream, None))
    photo = {"kind": "file", "name": f"photos/ab/{'0' * 8}-0000-0000-0000-{'0' * 12}"}
    records.insert(-1, Record({**photo, "storage": None}, b"a photo"))
    records[-1].head["files"] += 1
    return records


class _Writer(Writer):
    """Also writes text that is not UTF-8, as escapes in JSON can hold."""

    def add(self, head: dict[str, Any], payload: bytes = b"") -> None:
        text = json.dumps(head).encode()
        self._buffer += struct.pack(">IQ", len(text), len(payload)) + text + payload


def packed(records: list[Record]) -> bytes:
    """Returns a file of these records with valid checksums."""
    stream = io.BytesIO()
    writer = _Writer(stream, None)
    for record in records:
        writer.add(record.head, record.payload)
    writer.finish()
    return stream.getvalue()


def _places(value: Any, places: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Returns every position in a JSON value, as container and key."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        places.append((value, key))
        if isinstance(inner, dict | list):
            _places(inner, places)
    return places


def changed(records: list[Record], chance: random.Random) -> list[Record]:
    """Returns the records with changed values, payloads or order."""
    made = [Record(json.loads(json.dumps(one.head)), one.payload) for one in records]
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(made))
        match chance.randrange(6):
            case 0:
                del made[at]
            case 1:
                made.insert(chance.randrange(len(made)), made[at])
            case 2:
                made[at] = Record(made[at].head, chance.randbytes(chance.randrange(2000)))
            case _:
                holder, key = chance.choice(_places(made[at].head, []))
                holder[key] = chance.choice(_VALUES)
        if not made:
            return [Record({}, b"")]
    return made


def bent(data: bytes, chance: random.Random) -> bytes:
    """Returns the file with bytes changed, cut off or doubled."""
    made = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(made))
        match chance.randrange(4):
            case 0:
                made[at] = chance.randrange(256)
            case 1:
                made[at : at + 4] = b"\xff\xff\xff\xff"
            case 2:
                made[at:at] = made[at : at + 200]
            case _ if len(made) > 100:
                del made[at:]
        if not made:
            return b"\0"
    return bytes(made)


def _read(data: bytes) -> bool:
    for _ in Reader(io.BytesIO(data), None):
        pass
    return True


def _imported(data: bytes, folder: Path) -> bool:
    """Returns whether a file was imported. Raises AssertionError if it was imported in part."""
    file, settings = folder / "file", Settings(data_dir=folder / "there")
    file.write_bytes(data)
    make_data_folder(settings.data_dir)
    try:
        restore(settings, file, storages=("file:///storage",))
    except MusterError:
        left = [one for one in settings.data_dir.rglob("*") if one.is_file()]
        photos = [one for one in left if "photos" in one.parts or "snapshots" in one.parts]
        assert not photos, f"photos are left: {photos}"
        outside = {one.name for one in folder.iterdir()} - {"file", "there"}
        assert not outside, f"something was written outside: {outside}"
        with contextlib.suppress(FileNotFoundError):
            database = (settings.data_dir / "muster.db").read_bytes()
            assert len(database) < 64_000, "rows are left"
        return False
    return True


def run(seconds: float, seed: int) -> str:
    """Reads and imports modified files for some time. Raises any error but MusterError."""
    chance = random.Random(seed)
    read = imported = taken = 0
    until_s = time.monotonic() + seconds
    before = _peak_bytes()
    with tempfile.TemporaryDirectory(prefix="muster-") as path:
        records = records_of(Path(path))
        whole = packed(records)
        while not imported or time.monotonic() < until_s:
            for attempt in range(round(1 / _SHARE_WHOLE)):
                data = bent(whole, chance) if attempt else packed(changed(records, chance))
                folder = Path(path) / "attempt"
                folder.mkdir()
                trial: Callable[[], bool] = lambda: _read(data)  # noqa: B023, E731
                if not attempt:
                    trial = lambda: _imported(data, folder)  # noqa: B023, E731
                imported, read = imported + (not attempt), read + 1
                try:
                    taken += trial()
                except MusterError:
                    pass
                except Exception as error:
                    raise AssertionError(f"seed {seed}, file {read}") from error
                shutil.rmtree(folder)
    grown = _peak_bytes() - before
    if grown > _MOST_BYTES:
        raise AssertionError(f"seed {seed}: {grown >> 20} MiB for files of {len(whole)} bytes")
    return f"{read:,} files, {imported:,} of them imported whole, {taken:,} taken"


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
