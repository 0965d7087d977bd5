"""Gaps in the sequence numbers of a device, against the set of its missing numbers."""

from random import Random

import pytest
from sqlalchemy import select

from match_server.db.tables import Device, DeviceGap
from match_server.services.devices.devices import mark_device_seen
from match_server.services.devices.sequence_gaps import note_sequences


@pytest.mark.parametrize("seed", range(3))
def test_the_gaps_are_the_numbers_that_no_probe_had(make_services, clock, seed):
    database, random = make_services().database, Random(seed)
    received = []
    for _ in range(25):
        middle = random.randint(10, 60)
        numbers = [max(1, middle + random.randint(-12, 12)) for _ in range(random.randint(1, 9))]
        received += numbers
        with database.write() as session:
            note_sequences(session, mark_device_seen(session, "box", None, clock.now()), numbers)
        with database.read() as session:
            device = session.scalars(select(Device)).one()
            gaps = session.scalars(select(DeviceGap).order_by(DeviceGap.first)).all()
        first, last = min(received), max(received)
        assert (device.first_sequence, device.last_sequence) == (first, last)
        assert device.received == len(received)
        missing = [number for gap in gaps for number in range(gap.first, gap.last + 1)]
        assert missing == sorted(set(range(first, last + 1)) - set(received))
