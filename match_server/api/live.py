"""Probes come in, events go out: also as a live stream (server-sent events)."""

import threading
import time
from collections.abc import Callable, Iterator

from flask import Request, Response, g, request
from pydantic import TypeAdapter, ValidationError

from match_server.api.client_connection import is_closed, notice_silence
from match_server.api.open_responses import while_admitted
from match_server.api.parking import PARKING, Parked
from match_server.api.parsing import require_json
from match_server.api.routing import Access, Endpoint
from match_server.container import Services
from match_server.schemas.base import Page
from match_server.schemas.decisions import DecisionGiven, DecisionUndone, DecisionView
from match_server.schemas.events import (
    EventQuery,
    EventView,
    ProbeResult,
    ProbeResults,
    SnapshotQuery,
    StreamQuery,
    probe_id_of,
)
from match_server.schemas.validation import malformed
from match_server.services.auth.keys import Permission, Principal
from match_server.services.feed_watch import EVENTS, FeedWatch
from match_server.services.sightings.intake import Probes
from match_server.services.sightings.queries import Events, Update
from shared.errors import Forbidden, MalformedInput, Unavailable
from shared.wire.messages import ProbeMessage

MAX_PROBES = 256
_POLL_S = 0.25
_HEARTBEAT_S = 15.0
_LONGEST_S = 900.0
"""A stream ends by itself after this, and the browser resumes it with a key that still counts."""

_JSON_ITEMS: TypeAdapter[list[object]] = TypeAdapter(list[object])
_JSON_ITEM: TypeAdapter[dict[str, object]] = TypeAdapter(dict[str, object])


def live_endpoints(services: Services, stopping: Callable[[], bool]) -> list[Endpoint]:
    """Probes and events. `stopping` tells the streams that the process wants to end."""
    events = services.events
    slots = threading.BoundedSemaphore(services.settings.max_streams)
    return [
        Endpoint(
            "POST", "/v1/probes", "events", "Send one probe, or a list of them",
            handle=lambda: _take(services.probes, request, g.principal),
            permission=Permission.PROBES, body=ProbeMessage, raw_body=True, at_once=MAX_PROBES,
            answer=ProbeResults, errors=(400, 413, 415, 503),
        ),
        Endpoint(
            "GET", "/v1/events", "events", "List sightings, newest first",
            handle=lambda query: events.page(query), permission=Permission.EVENTS,
            query=EventQuery, answer=Page[EventView], errors=(400,),
        ),
        Endpoint(
            "GET", "/v1/events/stream", "events",
            "Follow sightings live: `created` and `updated`; resumes after Last-Event-ID",
            handle=lambda query: _stream(services, query, request, slots, stopping),
            permission=Permission.EVENTS, query=StreamQuery, media_type="text/event-stream",
            errors=(400, 503),
        ),
        Endpoint(
            "GET", "/v1/events/<event>", "events", "Read one sighting",
            handle=lambda event: events.get(event), permission=Permission.EVENTS,
            answer=EventView, errors=(404,),
        ),
        Endpoint(
            "GET", "/v1/events/<event>/snapshot", "events", "The thumbnail of a sighting",
            handle=lambda event, query: _jpeg(events.snapshot(event)),
            permission=Permission.EVENTS, query=SnapshotQuery, media_type="image/jpeg",
            errors=(400, 404, 503), access=Access.GATHERED,
        ),
        Endpoint(
            "POST", "/v1/events/<event>/decision", "events",
            "Confirm or correct a sighting; what is alike is relabelled with it",
            handle=lambda event, body: services.decisions.decide(event, body),
            permission=Permission.ENROLL, body=DecisionGiven, answer=DecisionView, status=201,
            errors=(400, 404, 409), example={"decision": "person", "person": "eileen"},
        ),
        Endpoint(
            "GET", "/v1/events/<event>/decision", "events", "Read what a person said of a sighting",
            handle=lambda event: services.decisions.get(event), permission=Permission.EVENTS,
            answer=DecisionView, errors=(404,),
        ),
        Endpoint(
            "DELETE", "/v1/events/<event>/decision", "events",
            "Undo a decision: labels are put back, a learnt reference is removed",
            handle=lambda event: services.decisions.undo(event), permission=Permission.ENROLL,
            answer=DecisionUndone, errors=(404,),
        ),
    ]  # fmt: skip


class _Slot:
    """One taken place of a semaphore, given back once however often the response is closed."""

    def __init__(self, slots: threading.BoundedSemaphore) -> None:
        self._slots: threading.BoundedSemaphore | None = slots

    def release(self) -> None:
        slots, self._slots = self._slots, None
        if slots is not None:
            slots.release()


def _take(probes: Probes, incoming: Request, principal: Principal) -> ProbeResults:
    """Each probe is parsed and answered by itself, all are kept by one commit.

    A bad one never fails the rest; one of a device that the key may not speak for fails all.
    """
    require_json(incoming)
    read = [_read(item, principal) for item in _items(incoming.get_data())]
    stored = iter(probes.accept_all([one for one in read if isinstance(one, ProbeMessage)]))
    return ProbeResults(
        probes=[next(stored) if isinstance(one, ProbeMessage) else one for one in read]
    )


def _items(data: bytes) -> list[object]:
    try:
        if data.lstrip()[:1] != b"[":
            return [_JSON_ITEM.validate_json(data)]
        items = _JSON_ITEMS.validate_json(data)
    except ValidationError:
        raise MalformedInput("the body is one probe message or a list of them, as JSON") from None
    if not 1 <= len(items) <= MAX_PROBES:
        raise MalformedInput(f"send 1 to {MAX_PROBES} probes at a time, not {len(items)}")
    return items


def _read(item: object, principal: Principal) -> ProbeMessage | ProbeResult:
    """The probe, or its refusal."""
    try:
        message = ProbeMessage.model_validate(item)
    except ValidationError as error:
        return ProbeResult.refused(probe_id_of(item), malformed(error))
    if principal.device is not None and message.device != principal.device:
        raise Forbidden(
            f"this key speaks for device {principal.device!r}, not for {message.device!r}"
        )
    return message


def _stream(
    services: Services,
    query: StreamQuery,
    incoming: Request,
    slots: threading.BoundedSemaphore,
    stopping: Callable[[], bool],
) -> Response:
    """At most `slots` streams at once; beyond that, 503. One that waits is parked."""
    events = services.events
    revision = _resume_from(incoming, events)
    if not slots.acquire(blocking=False):
        raise Unavailable("as many event streams as allowed are open already; try again later")
    gone = is_closed(incoming.environ)
    notice_silence(incoming.environ)
    watch = services.feed_watch if PARKING in incoming.environ else None
    messages = _messages(events, query, revision, lambda: stopping() or gone(), watch)
    response = Response(
        while_admitted(messages, g.still_admitted),  # type: ignore[arg-type]
        content_type="text/event-stream",
    )
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"
    response.call_on_close(_Slot(slots).release)
    return response


def _resume_from(incoming: Request, events: Events) -> int:
    newest = events.revision()
    given = incoming.headers.get("Last-Event-ID")
    if given is None:
        return newest
    if not (given.isascii() and given.isdigit() and len(given) < 19):
        raise MalformedInput("Last-Event-ID is the number that the stream gave as `id`")
    return min(int(given), newest)


def _messages(
    events: Events,
    query: StreamQuery,
    revision: int,
    stopping: Callable[[], bool],
    watch: FeedWatch | None,
) -> Iterator[str | Parked]:
    """What the stream says. With `watch` it is parked while there is nothing to say."""
    started_s = spoke_s = time.monotonic()
    yield f"retry: 2000\nid: {revision}\n\n"
    while not stopping() and time.monotonic() - started_s < _LONGEST_S:
        signals = events.commit_signal.signals
        updates, revision = events.since(revision, query)
        for update in updates:
            yield _message(update)
        now_s = time.monotonic()
        if updates:
            spoke_s = now_s
            continue
        if now_s - spoke_s >= _HEARTBEAT_S:
            spoke_s = now_s
            yield f"id: {revision}\n: still here\n\n"
        if watch is None:
            events.commit_signal.wait(signals, _POLL_S)
        else:
            yield Parked(watch.wait(EVENTS, revision, spoke_s + _HEARTBEAT_S))


def _message(update: Update) -> str:
    data = update.event.model_dump_json()
    return f"id: {update.event.revision}\nevent: {update.kind}\ndata: {data}\n\n"


def _jpeg(data: bytes) -> Response:
    response = Response(data, content_type="image/jpeg")
    response.headers["Cache-Control"] = "private, no-cache"
    return response
