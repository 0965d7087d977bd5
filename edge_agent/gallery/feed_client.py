"""Client of the server's change feed: snapshots and changes over HTTP(S)."""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Final

import requests
from pydantic import TypeAdapter, ValidationError

from edge_agent.config.timeouts import Timeouts
from edge_agent.delivery.http_session import Query, ServerResponse, ServerSession
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
    Held,
    SnapshotEnd,
    SnapshotHead,
    SnapshotLine,
    SnapshotPart,
)

_SNAPSHOT_S: Final = 3600.0
_LINE_BYTES: Final = 64 * 1024
_MAX_LINE_BYTES: Final = 64 * 1024 * 1024
_MAX_CHANGES_BYTES: Final = 64 * 1024 * 1024
_ERRORS: Final = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    410: SnapshotNeeded,
}

_LINES: TypeAdapter[SnapshotHead | SnapshotPart | SnapshotEnd] = TypeAdapter(SnapshotLine)


class FeedClient:
    """One follower's connection to one server. One call at a time.

    Calls raise Unavailable (a later call may help), Unauthenticated, Forbidden (this device may not
    hold the collection), NotFound (there is no such collection), SnapshotNeeded.
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
        self._device: Query = {"device": device, "keep_h": keep_h}
        self._session = ServerSession(url, key, ca_file=ca_file, timeouts=timeouts)

    @property
    def name(self) -> str:
        return self._session.name

    def changes(
        self, collection: str, since: int, scope: str, wait_s: float, held: Held | None = None
    ) -> FeedChanges:
        """Returns the changes after `since`; waits up to `wait_s` for the first.

        The server compares what is `held` with its database.
        """
        query = self._device | {
            "collection": collection,
            "since": since,
            "scope": scope,
            "wait": wait_s,
        }
        if held is not None:
            query |= held.model_dump(mode="json")
        response = self._session.call(
            "GET", "/v1/changes", query=query, max_bytes=_MAX_CHANGES_BYTES, wait_s=wait_s
        )
        if not response.ok:
            raise self._as_error(response)
        try:
            changes = FeedChanges.model_validate_json(response.body)
            changes.templates.rows(changes.gallery.dimension)
        except ValueError as error:
            raise Unavailable(f"the {self.name} sent an invalid change feed") from error
        return changes

    @contextmanager
    def snapshot(
        self, collection: str, after: int
    ) -> Iterator[tuple[SnapshotHead, Iterator[SnapshotPart]]]:
        """Yields the head of a snapshot and its parts, from template `after` on.

        The iterator of the parts raises Unavailable where the snapshot was cut short or changed on
        the way. The parts before that are right, and a later call may continue after them.
        """
        query = self._device | {"collection": collection, "after": after}
        with self._session.stream("/v1/snapshot", query, _SNAPSHOT_S) as response:
            if not response.ok or response.is_redirect:
                raise self._as_error(self._session.whole(response))
            lines = self._lines(response)
            head = self._read(next(lines, b""))
            if not isinstance(head, SnapshotHead):
                raise Unavailable(f"the {self.name} sent an invalid snapshot")
            yield head, self._parts(lines, head)

    def close(self) -> None:
        self._session.close()

    def _parts(self, lines: Iterator[bytes], head: SnapshotHead) -> Iterator[SnapshotPart]:
        digest, count = sha256(), 0
        for line in lines:
            part = self._read(line)
            if isinstance(part, SnapshotPart):
                try:
                    part.templates.rows(head.gallery.dimension)
                except ValueError as error:
                    raise self._cut() from error
                digest.update(line)
                count += len(part.templates.numbers)
                yield part
            elif isinstance(part, SnapshotEnd):
                if (part.templates, part.sha256) != (count, digest.hexdigest()):
                    raise Unavailable(f"the snapshot of the {self.name} was changed on the way")
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
        """Yields whole lines with their ends, without an incomplete last line."""
        line: list[bytes] = []
        size = 0
        try:
            for chunk in response.iter_content(_LINE_BYTES):
                first, *others = chunk.split(b"\n")
                line.append(first)
                size += len(first)
                if size > _MAX_LINE_BYTES:
                    raise self._cut()
                for other in others:
                    yield b"".join(line) + b"\n"
                    line, size = [other], len(other)
        except requests.RequestException as error:
            raise self._cut() from error

    def _as_error(self, response: ServerResponse) -> MusterError:
        refusal = response.refusal
        message = refusal.message or response.reason
        kind = _ERRORS.get(response.status)
        if kind is not None and refusal.code == kind.code:  # else it comes from another server
            return kind(f"the {self.name}: {message}")
        return Unavailable(
            f"the {self.name} answered {response.status}: {message}",
            retry_after_s=response.retry_after_s,
        )
