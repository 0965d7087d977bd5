"""Sequence numbers of the probes of a device: the received and the missing ones."""

import logging
from bisect import bisect_right, insort
from collections.abc import Sequence
from operator import itemgetter
from typing import cast

from sqlalchemy import Table as SqlTable
from sqlalchemy import bindparam, delete, insert, select
from sqlalchemy.orm import Session

from match_server.db.tables import Device, DeviceGap

log = logging.getLogger(__name__)

# Plain table, without ORM mapping.
_GAPS = cast(SqlTable, DeviceGap.__table__)
_BETWEEN = select(_GAPS.c.first, _GAPS.c.last).where(
    _GAPS.c.device_number == bindparam("device"),
    _GAPS.c.first <= bindparam("to"),
    _GAPS.c.last >= bindparam("from"),
)
_DELETE = delete(_GAPS).where(
    _GAPS.c.device_number == bindparam("device"), _GAPS.c.first == bindparam("start")
)
_INSERT = insert(_GAPS)

_Gap = tuple[int, int]  # its first and its last number


def note_sequences(session: Session, device: Device, sequences: Sequence[int]) -> None:
    """Count the numbers of stored probes, in the order of their receipt.

    Numbers between them and those received before may become a gap, or fill one.
    """
    gaps = _read_gaps(session, device, sequences)
    stored = set(gaps)
    for sequence in sequences:
        first, last = device.first_sequence, device.last_sequence
        device.received += 1
        if first is None or last is None:
            device.first_sequence = device.last_sequence = sequence
        elif sequence > last:
            _open(device, gaps, last + 1, sequence - 1)
            device.last_sequence = sequence
        elif sequence < first:
            _open(device, gaps, sequence + 1, first - 1)
            device.first_sequence = sequence
        else:
            _fill(gaps, sequence)
    _write_gaps(session, device, stored, set(gaps))


def _read_gaps(session: Session, device: Device, sequences: Sequence[int]) -> list[_Gap]:
    """The stored gaps that these numbers may fill, in order."""
    first, last = device.first_sequence, device.last_sequence
    if first is None or last is None:
        return []
    inside = [sequence for sequence in sequences if first <= sequence <= last]
    if not inside:
        return []
    limits = {"device": device.number, "from": min(inside), "to": max(inside)}
    return sorted((row[0], row[1]) for row in session.connection().execute(_BETWEEN, limits))


def _open(device: Device, gaps: list[_Gap], first: int, last: int) -> None:
    if first <= last:
        extra = {"device": device.name, "first": first, "last": last}
        log.warning("Probes are missing", extra=extra)
        insort(gaps, (first, last))


def _fill(gaps: list[_Gap], sequence: int) -> None:
    place = bisect_right(gaps, sequence, key=itemgetter(0)) - 1
    if place < 0 or gaps[place][1] < sequence:
        return  # another probe had this number: the device has lost its state
    first, last = gaps[place]
    rest = [(first, sequence - 1), (sequence + 1, last)]
    gaps[place : place + 1] = [gap for gap in rest if gap[0] <= gap[1]]


def _write_gaps(session: Session, device: Device, before: set[_Gap], after: set[_Gap]) -> None:
    connection = session.connection()
    if gone := before - after:
        rows = [{"device": device.number, "start": first} for first, _ in sorted(gone)]
        connection.execute(_DELETE, rows)
    if new := after - before:
        session.flush()  # gives a new device its number
        rows = [
            {"device_number": device.number, "first": first, "last": last}
            for first, last in sorted(new)
        ]
        connection.execute(_INSERT, rows)
