"""A device in this process: a real outbox, real delivery, and a thread that stores probes."""

import random
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from edge_agent.delivery.transport import Transport
from edge_agent.delivery.worker import Delivery
from edge_agent.outbox.outbox import Outbox
from tests.support.probes import make_probe


class StoringDevice:
    """Stores probes at a given rate during `storing`; `stored` are their ids in order."""

    def __init__(self, folder: Path, name: str, transport: Transport, model_id: str) -> None:
        self.name = name
        self.outbox = Outbox(folder / f"{name}.db", name)
        self.delivery = Delivery(self.outbox, transport)
        self.transport = transport
        self.stored: list[str] = []
        self._model_id = model_id
        self._enough = threading.Event()

    @contextmanager
    def storing(self, a_second: float) -> Iterator[None]:
        """Delivers, and stores probes at this rate, while the block runs."""
        self._enough.clear()
        thread = threading.Thread(target=self._store, args=(1.0 / a_second,), daemon=True)
        self.delivery.start()
        thread.start()
        try:
            yield
        finally:
            self._enough.set()
            thread.join()

    def end(self) -> bool:
        """Stops delivery; returns whether it ended."""
        ended = self.delivery.stop(5.0)
        self.outbox.close()
        return ended

    def _store(self, pause_s: float) -> None:
        chance = random.Random(self.name)
        while not self._enough.wait(pause_s):
            probe = make_probe(
                seed=chance.getrandbits(32),
                model_id=self._model_id,
                captured_at=datetime.now(UTC),
            )
            self.outbox.put([probe])
            self.stored.append(probe.probe_id)


def assert_all_there_once(data: Path, box: StoringDevice) -> None:
    """Checks that the server has every stored probe once, in order, in one event."""
    database = sqlite3.connect(data / "muster.db")
    try:
        there = database.execute(
            "SELECT id, sequence FROM probes WHERE device = ? ORDER BY sequence", (box.name,)
        ).fetchall()
        events, shown = database.execute(
            "SELECT count(*), sum(probes) FROM events WHERE device = ?", (box.name,)
        ).fetchone()
        gaps = database.execute(
            "SELECT first, last FROM device_gaps JOIN devices ON number = device_number"
            " WHERE name = ?",
            (box.name,),
        ).fetchall()
    finally:
        database.close()
    assert [probe_id for probe_id, _ in there] == box.stored
    assert [number for _, number in there] == list(range(1, len(box.stored) + 1))
    assert events == shown == len(box.stored), "each probe here is a track, and so an event"
    assert gaps == []
