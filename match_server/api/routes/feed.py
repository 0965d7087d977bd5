"""The change feed: snapshots, changes with a long poll, and the devices that follow."""

import time
from collections.abc import Callable

from flask import Request, Response, request

from match_server.api.auth import access_check, current_principal
from match_server.api.parking import PARKING, Parked, Parking
from match_server.api.routing import AccessEntry, Routes
from match_server.api.streaming import StreamLimit, while_admitted
from match_server.container import Services
from match_server.schemas.base import NDJSON, Page
from match_server.schemas.feed import ChangesQuery, FollowerQuery, FollowerView, SnapshotQuery
from match_server.services.auth.keys import Permission
from match_server.services.devices.gallery_feed import Feed
from shared.errors import SnapshotNeeded
from shared.wire.change_feed import FeedChanges


def feed_routes(services: Services, stopping: Callable[[], bool]) -> Routes:
    """`stopping` returns true when the process is to end, and long polls with it."""
    routes = Routes("feed")
    limit = StreamLimit(
        services.settings.snapshot_limit,
        "as many snapshots as allowed are being sent; try again later",
    )

    @routes.add("GET", "/v1/changes", Permission.FOLLOW, errors=(404, 410, 503))
    def list_changes(query: ChangesQuery) -> FeedChanges:
        """List the changes of a collection after a number; with `wait`, wait for one."""
        return _changes(services, query, request, stopping)

    @routes.add(
        "GET",
        "/v1/snapshot",
        Permission.FOLLOW,
        errors=(404, 503),
        media_type=NDJSON,
        access=AccessEntry.EACH,
    )
    def get_snapshot(query: SnapshotQuery) -> Response:
        """All templates of a collection as NDJSON, with the number of the feed to go on from."""
        return _snapshot(services.feed, query, limit)

    @routes.add("GET", "/v1/followers", Permission.ADMINISTER)
    def list_followers(query: FollowerQuery) -> Page[FollowerView]:
        """List which devices hold which galleries, and how up to date they are."""
        return services.followers.page(query)

    return routes


def _changes(
    services: Services, query: ChangesQuery, request: Request, stopping: Callable[[], bool]
) -> FeedChanges:
    """The changes, after a wait if the query asks for one and there are none.

    A waiting request is parked and holds no thread; it begins again when its wait is over. When
    the worker cannot park more requests, the response comes without a wait.
    """
    feed, principal = services.feed, current_principal()
    parking: Parking | None = request.environ.get(PARKING)
    followed = feed.followed(query, principal)
    if parking is None or not parking.woken:
        feed.acknowledge(followed, query)
        services.follower_digests.require_agreement(followed, query)
        if query.wait and not feed.has_moved(followed, query.since):
            deadline_s = time.monotonic() + query.wait
            wait = services.feed_watch.wait(followed.scope.number, query.since, deadline_s)
            if parking is None:
                wait.block(stopping)
                access_check()()
            elif parking.room and not stopping():
                raise Parked(wait)
    while True:  # until what the caller may follow is the same before and after reading
        changes, mark = feed.changes(followed, query), followed.mark
        followed = feed.followed(query, principal)
        if followed.mark == mark:
            return changes


def _snapshot(feed: Feed, query: SnapshotQuery, limit: StreamLimit) -> Response:
    principal, check_access = current_principal(), access_check()
    followed = feed.followed(query, principal)
    release = limit.acquire()

    def check() -> None:
        """Raises when the key is not valid any more, or may follow something else by now."""
        check_access()
        if feed.followed(query, principal).mark != followed.mark:
            raise SnapshotNeeded("what may be followed has changed: take another snapshot")

    lines = while_admitted(feed.snapshot(followed, query), check)
    response = Response(lines, content_type=NDJSON)
    response.call_on_close(release)
    return response
