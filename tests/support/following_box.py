"""A device's gallery that follows an application in this process, one request at a time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from edge_agent.gallery.edge_gallery import EdgeGallery
from edge_agent.gallery.encrypted_store import Store
from edge_agent.gallery.replica import Follower
from shared.errors import SnapshotNeeded, Unavailable
from shared.wire.change_feed import (
    FeedChanges,
    Held,
    SnapshotEnd,
    SnapshotHead,
    SnapshotLine,
    SnapshotPart,
)
from tests.support.edge_galleries import keys

_LINES: TypeAdapter[Any] = TypeAdapter(SnapshotLine)


class ApplicationFeed:
    """The feed of an application's test client, with the key of one device."""

    def __init__(self, client: Any, key: str) -> None:
        self.client = client
        self.snapshots = 0
        self.compared = 0  # requests with a digest
        self._headers = {"Authorization": f"Bearer {key}"}

    def changes(
        self, collection: str, since: int, scope: str, wait_s: float, held: Held | None = None
    ) -> FeedChanges:
        query: dict[str, Any] = {"collection": collection, "since": since, "scope": scope}
        if held is not None:
            self.compared += 1
            query |= held.model_dump(mode="json")
        response = self.client.get("/v1/changes", query_string=query, headers=self._headers)
        if response.status_code == 410:
            raise SnapshotNeeded(response.get_json()["message"])
        if response.status_code != 200:
            raise Unavailable(response.get_data(as_text=True))
        return FeedChanges.model_validate_json(response.get_data())

    @contextmanager
    def snapshot(self, collection: str, after: int) -> Iterator[tuple[SnapshotHead, Any]]:
        self.snapshots += 1
        query = {"collection": collection, "after": after}
        response = self.client.get("/v1/snapshot", query_string=query, headers=self._headers)
        lines = map(_LINES.validate_json, response.iter_encoded())
        try:
            yield next(lines), _parts(lines)
        finally:
            response.close()

    def close(self) -> None:
        pass


def _parts(lines: Iterator[Any]) -> Iterator[SnapshotPart]:
    try:
        for line in lines:
            if isinstance(line, SnapshotEnd):
                return
            yield line
    except SnapshotNeeded:  # a real server cuts the connection
        pass
    raise Unavailable("the snapshot was cut short")


class FollowingBox:
    """The gallery `default` of one device; `api` and `device` are of the test's server."""

    def __init__(
        self, folder: Path, api: Any, device: str, model_id: str, groups: Sequence[str] = ()
    ) -> None:
        granted = [{"collection": "default", "groups": list(groups), "names": True}]
        api.ok("PUT", f"/v1/devices/{device}/galleries", json={"galleries": granted})
        self.feed = ApplicationFeed(api.client, api.key(f"device:{device}"))
        folder.mkdir()
        store = Store(folder / "gallery.db", "default", keys())
        keep = timedelta(days=3650)
        self.gallery = EdgeGallery(store, "default", model_id, keep, api.clock)
        self._store = store
        self._follower = Follower(self.gallery, self.feed, clock=api.clock)

    def step(self) -> None:
        """Send one request, and apply the response."""
        self._follower.step()

    def catch_up(self) -> list[str]:
        """Follow until the server has nothing more; returns the names that the box holds."""
        for _ in range(6):  # 410, head and parts, changes, and once more to acknowledge them
            self.step()
        assert self._follower.complaint is None, self._follower.complaint
        return sorted(str(person.name) for person in self._store.persons())

    def compare(self) -> list[str]:
        """Follow, and let the server compare what this box holds."""
        self.catch_up()
        self._follower._compare_s = 0.0
        return self.catch_up()

    def templates(self) -> dict[int, bytes]:
        """The templates that the box holds, by number."""
        return {
            number: row.tobytes()
            for numbers, rows in self._store.templates()
            for number, row in zip(numbers.tolist(), rows, strict=True)
        }

    def close(self) -> None:
        self.gallery.close()
