"""Sequence numbers of the probes of a device: the received and the missing ones."""

import logging

from sqlalchemy import select
from sqlalchemy.orm import Session

from match_server.db.tables import Device, DeviceGap

log = logging.getLogger(__name__)


def note_sequence(session: Session, device: Device, sequence: int) -> None:
    """Count the number of a stored probe. Numbers before it may become a gap; it may fill one."""
    first, last = device.first_sequence, device.last_sequence
    device.received += 1
    if first is None or last is None:
        device.first_sequence = device.last_sequence = sequence
    elif sequence > last:
        _open_gap(session, device, last + 1, sequence - 1)
        device.last_sequence = sequence
    elif sequence < first:
        _open_gap(session, device, sequence + 1, first - 1)
        device.first_sequence = sequence
    else:
        _fill(session, device, sequence)


def _open_gap(session: Session, device: Device, first: int, last: int) -> None:
    if first > last:
        return
    extra = {"device": device.name, "first": first, "last": last}
    log.warning("Probes are missing", extra=extra)
    session.flush()  # gives a new device its number
    session.add(DeviceGap(device_number=device.number, first=first, last=last))


def _fill(session: Session, device: Device, sequence: int) -> None:
    if any(isinstance(row, DeviceGap) for row in (*session.new, *session.dirty)):
        session.flush()
    with session.no_autoflush:  # of other changes of this transaction
        gap = session.scalars(
            select(DeviceGap).where(
                DeviceGap.device_number == device.number,
                DeviceGap.first <= sequence,
                DeviceGap.last >= sequence,
            )
        ).one_or_none()
    if gap is None:
        return  # another probe had this number: the device has lost its state
    first, last = gap.first, gap.last
    if sequence == first:
        session.delete(gap)
        session.flush()
    else:
        gap.last = sequence - 1
    if sequence < last:
        session.add(DeviceGap(device_number=device.number, first=sequence + 1, last=last))
