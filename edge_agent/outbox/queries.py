"""Statements on the rows of the outbox, within its transaction; each updates the tally as well."""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final

from shared.wire.messages import ProbeReceipt

_KEPT_REFUSALS: Final = 1000


def last_sequence(cursor: sqlite3.Cursor) -> int:
    (number,) = cursor.execute("SELECT last_sequence FROM tally").fetchone()
    return int(number)


def insert(cursor: sqlite3.Cursor, rows: Sequence[tuple[int, str, bytes, float]]) -> None:
    """Rows in order: number, id, encrypted probe, time (seconds that the outbox has been open)."""
    cursor.executemany(
        "INSERT INTO probe (sequence, probe_id, body, put_at_s) VALUES (?, ?, ?, ?)", rows
    )
    cursor.execute(
        "UPDATE tally SET last_sequence = ?, bytes = bytes + ?",
        (rows[-1][0], sum(len(body) for _, _, body, _ in rows)),
    )


def make_room(cursor: sqlite3.Cursor, max_bytes: int) -> None:
    """Drops the oldest probes until at most `max_bytes` are left."""
    (excess,) = cursor.execute("SELECT bytes - ? FROM tally", (max_bytes,)).fetchone()
    if excess <= 0:
        return
    freed = dropped = last = 0
    oldest = cursor.execute("SELECT sequence, length(body) FROM probe ORDER BY sequence")
    for last, size in oldest:  # noqa: B007  # used after the loop
        freed += size
        dropped += 1
        if freed >= excess:
            break
    cursor.execute("DELETE FROM probe WHERE sequence <= ?", (last,))
    count_dropped(cursor, dropped, freed)


def drop_older(cursor: sqlite3.Cursor, than_s: float) -> int:
    """Drops the probes that were put before `than_s`; returns their number."""
    dropped = cursor.execute(
        "DELETE FROM probe WHERE put_at_s < ? RETURNING length(body)", (than_s,)
    ).fetchall()
    count_dropped(cursor, len(dropped), sum(size for (size,) in dropped))
    return len(dropped)


def count_dropped(cursor: sqlite3.Cursor, count: int, size: int = 0) -> None:
    cursor.execute("UPDATE tally SET bytes = bytes - ?, dropped = dropped + ?", (size, count))


def forget(cursor: sqlite3.Cursor, receipts: Iterable[ProbeReceipt], now: str) -> None:
    """Removes confirmed probes and records refused ones, with the time `now` (RFC 3339)."""
    for receipt in receipts:
        row = cursor.execute(
            "DELETE FROM probe WHERE probe_id = ? RETURNING sequence, length(body)",
            (receipt.probe_id,),
        ).fetchone()
        if row is None:  # dropped since the receipt came, because the outbox was full
            continue
        sequence, size = row
        if receipt.status == "refused":
            cursor.execute(
                "INSERT OR REPLACE INTO refusal VALUES (?, ?, ?, ?, ?)",
                (sequence, receipt.probe_id, receipt.code, receipt.message, now),
            )
            cursor.execute(
                "DELETE FROM refusal WHERE sequence NOT IN"
                " (SELECT sequence FROM refusal ORDER BY sequence DESC LIMIT ?)",
                (_KEPT_REFUSALS,),
            )
        counter = "refused" if receipt.status == "refused" else "acknowledged"
        cursor.execute(
            f"UPDATE tally SET bytes = bytes - ?, {counter} = {counter} + 1",  # noqa: S608
            (size,),
        )
