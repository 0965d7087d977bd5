"""The server as a follower asks it: snapshots and changes over HTTP(S)."""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Final

import requests
from pydantic import TypeAdapter, ValidationError

from edge_agent.config.timeouts import Timeouts
from edge_agent.delivery.http_session import Answer, Query, ServerSession
from shared.errors import (
    Forbidden,
    MusterError,
    NotFound,
    SnapshotNeeded,
    Unauthenticated,
    Unavailable,
)
from shared.wire.change_feed import (
    FeedChanges,
    SnapshotEnd,
    SnapshotHead,
    SnapshotLine,
    SnapshotPart,
)

_SNAPSHOT_S: Final = 3600.0
_LINE_BYTES: Final = 64 * 1024
_LONGEST_LINE: Final = 64 * 1024 * 1024
_MAX_CHANGES_BYTES: Final = 64 * 1024 * 1024
_STEADY: Final = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    410: SnapshotNeeded,
}

_LINES: TypeAdapter[SnapshotHead | SnapshotPart | SnapshotEnd] = TypeAdapter(SnapshotLine)


class FeedClient:
    """One follower's connection to one server. One call at a time.

    Calls raise Unavailable (later may help), Unauthenticated, Forbidden (this box may not hold the
    collection), NotFound (there is no such collection), SnapshotNeeded.
    """

    def __init__(
        self,
        url: str,
        key: str,
        device: str,
        *,
        keep_h: float,
        ca_file: Path | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self._who: Query = {"device": device, "keep_h": keep_h}
        self._session = ServerSession(url, key, ca_file=ca_file, timeouts=timeouts)

    @property
    def name(self) -> str:
        return self._session.name

    def changes(self, collection: str, since: int, scope: str, wait_s: float) -> FeedChanges:
        """What happened after `since`, as soon as there is something, after `wait_s` at most."""
        query = self._who | {
            "collection": collection,
            "since": since,
            "scope": scope,
            "wait": wait_s,
        }
        answer = self._session.call(
            "GET", "/v1/changes", query=query, most_bytes=_MAX_CHANGES_BYTES, wait_s=wait_s
        )
        if not answer.ok:
            raise self._as_error(answer)
        try:
            changes = FeedChanges.model_validate_json(answer.body)
            changes.templates.rows(changes.gallery.dimension)
        except ValueError as error:
            raise Unavailable(f"the {self.name} answered what is no change feed") from error
        return changes

    @contextmanager
    def snapshot(
        self, collection: str, after: int
    ) -> Iterator[tuple[SnapshotHead, Iterator[SnapshotPart]]]:
        """The head of a snapshot and its parts, from template `after` on.

        The parts raise Unavailable where they end before their time, or are not what was sent:
        those that were given out are right nevertheless, and it may go on after them.
        """
        query = self._who | {"collection": collection, "after": after}
        with self._session.stream("/v1/snapshot", query, _SNAPSHOT_S) as response:
            if not response.ok or response.is_redirect:
                raise self._as_error(self._session.answer(response))
            lines = self._lines(response)
            head = self._read(next(lines, b""))
            if not isinstance(head, SnapshotHead):
                raise Unavailable(f"the {self.name} answered what is no snapshot")
            yield head, self._parts(lines, head)

    def close(self) -> None:
        self._session.close()

    def _parts(self, lines: Iterator[bytes], head: SnapshotHead) -> Iterator[SnapshotPart]:
        digest, count = sha256(), 0
        for line in lines:
            read = self._read(line)
            if isinstance(read, SnapshotPart):
                try:
                    read.templates.rows(head.gallery.dimension)
                except ValueError as error:
                    raise self._cut() from error
                digest.update(line)
                count += len(read.templates.numbers)
                yield read
            elif isinstance(read, SnapshotEnd):
                if (read.templates, read.sha256) != (count, digest.hexdigest()):
                    raise Unavailable(f"the snapshot of the {self.name} is not what it sent")
                return
        raise self._cut()

    def _read(self, line: bytes) -> SnapshotHead | SnapshotPart | SnapshotEnd:
        try:
            return _LINES.validate_json(line)
        except ValidationError as error:
            raise self._cut() from error

    def _cut(self) -> Unavailable:
        return Unavailable(f"the snapshot of the {self.name} was cut short")

    def _lines(self, response: requests.Response) -> Iterator[bytes]:
        """Whole lines with their ends; what is cut short at the end is left out."""
        held: list[bytes] = []
        size = 0
        try:
            for chunk in response.iter_content(_LINE_BYTES):
                first, *others = chunk.split(b"\n")
                held.append(first)
                size += len(first)
                if size > _LONGEST_LINE:
                    raise self._cut()
                for other in others:
                    yield b"".join(held) + b"\n"
                    held, size = [other], len(other)
        except requests.RequestException as error:
            raise self._cut() from error

    def _as_error(self, answer: Answer) -> MusterError:
        refusal = answer.refusal
        said = refusal.message or answer.reason
        kind = _STEADY.get(answer.status)
        if kind is not None and refusal.code == kind.code:  # and not of some other server
            return kind(f"the {self.name}: {said}")
        return Unavailable(
            f"the {self.name} answered {answer.status}: {said}", retry_after_s=answer.retry_after_s
        )
