"""The ledger: daily counts of devices why faces were not recognised, by camera."""

from collections import Counter
from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.orm import Session

from match_server.db.database import Database
from match_server.db.tables import Device, LedgerEntry
from match_server.schemas.devices import LedgerDayView, LedgerQuery, LedgerView
from match_server.services.devices.devices import device_named
from shared.reasons import in_plain_terms
from shared.wire.device import LedgerDay

_MOST = 400


class Ledgers:
    """Reads the ledgers of devices."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, device: str, query: LedgerQuery) -> LedgerView:
        """The days of one device, newest first, its cameras by name."""
        with self._database.read() as session:
            entries = select(LedgerEntry).where(
                LedgerEntry.device_number == device_named(session, device).number
            )
            if query.since is not None:
                entries = entries.where(LedgerEntry.day >= query.since)
            if query.until is not None:
                entries = entries.where(LedgerEntry.day <= query.until)
            if query.camera is not None:
                entries = entries.where(LedgerEntry.camera == query.camera)
            ordered = entries.order_by(LedgerEntry.day.desc(), LedgerEntry.camera).limit(_MOST)
            return LedgerView(items=[_view(row) for row in session.scalars(ordered)])


def enter(session: Session, device: Device, days: Iterable[LedgerDay]) -> None:
    """Store counts of days in place of earlier ones. The row of the device is locked."""
    latest = {(entry.camera, entry.day): entry for entry in days}
    if not latest:
        return
    known = {
        (row.camera, row.day): row
        for row in session.scalars(
            select(LedgerEntry).where(
                LedgerEntry.device_number == device.number,
                LedgerEntry.day.in_({day for _, day in latest}),
            )
        )
    }
    for key, entry in latest.items():
        row = known.get(key)
        if row is None:
            row = LedgerEntry(device_number=device.number, camera=entry.camera, day=entry.day)
            session.add(row)
        row.tracks, row.with_probe = entry.tracks, entry.with_probe
        row.reasons = dict(entry.reasons)


def _view(row: LedgerEntry) -> LedgerDayView:
    plain: Counter[str] = Counter()
    for factor, tracks in row.reasons.items():
        plain[in_plain_terms(factor)] += tracks
    return LedgerDayView(
        camera=row.camera,
        day=row.day,
        tracks=row.tracks,
        with_probe=row.with_probe,
        reasons=row.reasons,
        in_plain_terms=dict(plain.most_common()),
    )
