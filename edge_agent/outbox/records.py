"""What the outbox returns: stored probes, refusals and counts."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoredProbe:
    """One waiting probe: its number, its id and its wire form (JSON, UTF-8)."""

    sequence: int
    probe_id: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """One probe that the server refuses for ever, and the reason."""

    sequence: int
    probe_id: str
    code: str | None
    message: str | None
    refused_at: str  # RFC 3339


@dataclass(frozen=True, slots=True)
class OutboxCounts:
    """Counts since the outbox was created, and of the probes that it holds now."""

    put: int  # numbered and stored; equals the last sequence number
    acknowledged: int
    refused: int
    dropped: int  # given up, oldest first, because of the size limit or their age
    waiting: int  # on the disk
    held: int  # in memory, because the disk cannot be written at the moment
    waiting_bytes: int
