"""The change feed over HTTP: snapshots, changes with a long poll, and who may follow."""

import threading
import time
from collections.abc import Callable, Iterator

from flask import Request, Response, g, request

from match_server.api.open_responses import while_admitted
from match_server.api.parking import PARKING, Parked, Parking
from match_server.api.routing import Access, Endpoint
from match_server.container import Services
from match_server.schemas.base import NDJSON, Page
from match_server.schemas.feed import (
    ChangesQuery,
    FollowerQuery,
    FollowerView,
    GalleriesPut,
    SnapshotQuery,
)
from match_server.services.auth.keys import Permission, Principal
from match_server.services.devices.gallery_feed import Feed
from shared.errors import SnapshotNeeded, Unavailable
from shared.wire.change_feed import FeedChanges


def feed_endpoints(services: Services, stopping: Callable[[], bool]) -> list[Endpoint]:
    """Followers. `stopping` ends what waits when the process is to end."""
    feed, followers = services.feed, services.followers
    slots = threading.BoundedSemaphore(services.settings.snapshot_limit)
    return [
        Endpoint(
            "GET", "/v1/changes", "feed",
            "What happened to a collection after a number; waits for it if asked to",
            handle=lambda query: _changes(services, query, request, stopping),
            permission=Permission.FOLLOW, query=ChangesQuery, answer=FeedChanges,
            errors=(400, 404, 410, 503),
        ),
        Endpoint(
            "GET", "/v1/snapshot", "feed",
            "All templates of a collection as NDJSON, with the number of the feed to go on from",
            handle=lambda query: _snapshot(feed, query, g.principal, slots),
            permission=Permission.FOLLOW, query=SnapshotQuery, media_type=NDJSON,
            errors=(400, 404, 503), access=Access.EACH,
        ),
        Endpoint(
            "GET", "/v1/followers", "feed", "Which boxes hold which galleries, and how far",
            handle=lambda query: followers.page(query), permission=Permission.ADMINISTER,
            query=FollowerQuery, answer=Page[FollowerView], errors=(400,),
        ),
        Endpoint(
            "PUT", "/v1/devices/<device>/galleries", "devices",
            "Let a device hold exactly these collections or groups",
            handle=lambda device, body: followers.put(device, body),
            permission=Permission.ADMINISTER, body=GalleriesPut, answer=Page[FollowerView],
            errors=(400, 404, 409),
            example={"galleries": [{"collection": "staff", "groups": ["night-shift"]}]},
        ),
    ]  # fmt: skip


def _changes(
    services: Services, query: ChangesQuery, incoming: Request, stopping: Callable[[], bool]
) -> FeedChanges:
    """What waits is parked and holds no thread; the request begins again when its wait is over.

    Where the worker has no room for it, the answer comes at once.
    """
    feed, principal = services.feed, g.principal
    parking: Parking | None = incoming.environ.get(PARKING)
    followed = feed.followed(query, principal)
    if parking is None or not parking.woken:
        feed.acknowledge(followed, query)
        if query.wait and not feed.has_moved(followed, query.since):
            deadline_s = time.monotonic() + query.wait
            wait = services.feed_watch.wait(followed.scope.number, query.since, deadline_s)
            if parking is None:
                wait.block(stopping)
                g.still_admitted()
            elif parking.room and not stopping():
                raise Parked(wait)
    while True:  # what was read while a gallery was taken away, or changed, is not told
        told, before = feed.changes(followed, query), followed.mark
        followed = feed.followed(query, principal)
        if followed.mark == before:
            return told


def _snapshot(
    feed: Feed, query: SnapshotQuery, principal: Principal, slots: threading.BoundedSemaphore
) -> Response:
    followed = feed.followed(query, principal)
    if not slots.acquire(blocking=False):
        raise Unavailable("as many snapshots as allowed are being sent; try again later")
    held = [slots]
    admitted = g.still_admitted

    def still() -> None:
        """Raises when the key, the collection or what the device may hold of it is another."""
        admitted()
        if feed.followed(query, principal).mark != followed.mark:
            raise SnapshotNeeded("what may be followed has changed: take another snapshot")

    def release() -> None:
        if held:
            held.pop().release()

    lines = while_admitted(feed.snapshot(followed, query), still)
    response = Response(_released(lines, release), content_type=NDJSON)
    response.call_on_close(release)  # also when nothing was read of it
    return response


def _released(lines: Iterator[bytes], release: Callable[[], None]) -> Iterator[bytes]:
    try:
        yield from lines
    finally:
        release()
