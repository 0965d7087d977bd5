"""The live stream of events, as server-sent events."""

import time
from collections.abc import Callable, Iterator

from flask import Request, Response

from match_server.api.auth import access_check
from match_server.api.client_connection import is_closed, notice_silence
from match_server.api.parking import PARKING, Parked
from match_server.api.streaming import StreamLimit, while_admitted
from match_server.container import Services
from match_server.schemas.events import StreamQuery
from match_server.services.feed_watch import EVENTS, FeedWatch
from match_server.services.sightings.queries import Events, Update
from shared.errors import MalformedInput

_POLL_S = 0.25
_HEARTBEAT_S = 15.0
_MAX_DURATION_S = 900.0
"""Then a stream ends by itself; the browser opens another, if its key is still valid."""


def event_stream(
    services: Services,
    query: StreamQuery,
    request: Request,
    limit: StreamLimit,
    stopping: Callable[[], bool],
) -> Response:
    """The response to a request for the stream; it is parked while there is no event.

    Raises Unavailable beyond the limit.
    """
    events = services.events
    revision = _first_revision(request, events)
    release = limit.acquire()
    closed = is_closed(request.environ)
    notice_silence(request.environ)
    watch = services.feed_watch if PARKING in request.environ else None
    messages = _messages(events, query, revision, lambda: stopping() or closed(), watch)
    response = Response(
        while_admitted(messages, access_check()),  # type: ignore[arg-type]
        content_type="text/event-stream",
    )
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"
    response.call_on_close(release)
    return response


def _first_revision(request: Request, events: Events) -> int:
    """The revision after which the stream begins: the last that the client got, else the newest."""
    newest = events.revision()
    last = request.headers.get("Last-Event-ID")
    if last is None:
        return newest
    if not (last.isascii() and last.isdigit() and len(last) < 19):
        raise MalformedInput("Last-Event-ID is the number that the stream gave as `id`")
    return min(int(last), newest)


def _messages(
    events: Events,
    query: StreamQuery,
    revision: int,
    stopping: Callable[[], bool],
    watch: FeedWatch | None,
) -> Iterator[str | Parked]:
    """The messages of the stream; with `watch`, a `Parked` each time there is no event to send."""
    started_s = sent_s = time.monotonic()
    yield f"retry: 2000\nid: {revision}\n\n"
    while not stopping() and time.monotonic() - started_s < _MAX_DURATION_S:
        signals = events.commit_signal.signals
        updates, revision = events.since(revision, query)
        for update in updates:
            yield _message(update)
        now_s = time.monotonic()
        if updates:
            sent_s = now_s
            continue
        if now_s - sent_s >= _HEARTBEAT_S:
            sent_s = now_s
            yield f"id: {revision}\n: still here\n\n"
        if watch is None:
            events.commit_signal.wait(signals, _POLL_S)
        else:
            yield Parked(watch.wait(EVENTS, revision, sent_s + _HEARTBEAT_S))


def _message(update: Update) -> str:
    data = update.event.model_dump_json()
    return f"id: {update.event.revision}\nevent: {update.kind}\ndata: {data}\n\n"
