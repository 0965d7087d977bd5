"""Events, which are sightings of persons, and the decisions of operators on them."""

from collections.abc import Callable

from flask import Response, request

from match_server.api.event_stream import event_stream
from match_server.api.routing import AccessEntry, Routes
from match_server.api.streaming import StreamLimit
from match_server.container import Services
from match_server.schemas.base import Page
from match_server.schemas.decisions import DecisionGiven, DecisionUndone, DecisionView
from match_server.schemas.events import EventQuery, EventView, SnapshotQuery, StreamQuery
from match_server.services.auth.keys import Permission

_EVENT = "/v1/events/<event>"


def event_routes(services: Services, stopping: Callable[[], bool]) -> Routes:
    """`stopping` returns true when the process is to end, and streams with it."""
    routes = Routes("events")
    events = services.events
    limit = StreamLimit(
        services.settings.max_streams,
        "as many event streams as allowed are open already; try again later",
    )

    @routes.add("GET", "/v1/events", Permission.EVENTS)
    def list_events(query: EventQuery) -> Page[EventView]:
        """List sightings, newest first."""
        return events.page(query)

    @routes.add(
        "GET",
        "/v1/events/stream",
        Permission.EVENTS,
        errors=(503,),
        media_type="text/event-stream",
    )
    def stream_events(query: StreamQuery) -> Response:
        """Follow sightings live: `created` and `updated`; resumes after Last-Event-ID."""
        return event_stream(services, query, request, limit, stopping)

    @routes.add("GET", _EVENT, Permission.EVENTS, errors=(404,))
    def get_event(event: str) -> EventView:
        """Read one sighting."""
        return events.get(event)

    @routes.add(
        "GET",
        f"{_EVENT}/snapshot",
        Permission.EVENTS,
        errors=(404, 503),
        media_type="image/jpeg",
        access=AccessEntry.COUNTED,
    )
    def get_event_snapshot(event: str, query: SnapshotQuery) -> Response:
        """Read the thumbnail of a sighting."""
        response = Response(events.snapshot(event), content_type="image/jpeg")
        response.headers["Cache-Control"] = "private, no-cache"
        return response

    return routes


def decision_routes(services: Services) -> Routes:
    routes = Routes("events")
    decisions = services.decisions

    @routes.add(
        "POST",
        f"{_EVENT}/decision",
        Permission.ENROLL,
        status=201,
        errors=(404, 409),
        example={"decision": "person", "person": "eileen"},
    )
    def decide_event(event: str, body: DecisionGiven) -> DecisionView:
        """Confirm or correct a sighting; similar sightings are relabelled with it."""
        return decisions.decide(event, body)

    @routes.add("GET", f"{_EVENT}/decision", Permission.EVENTS, errors=(404,))
    def get_event_decision(event: str) -> DecisionView:
        """Read the decision of an operator on a sighting."""
        return decisions.get(event)

    @routes.add("DELETE", f"{_EVENT}/decision", Permission.ENROLL, errors=(404,))
    def undo_event_decision(event: str) -> DecisionUndone:
        """Undo a decision: labels are put back, a learnt reference is removed."""
        return decisions.undo(event)

    return routes
