"""The pages of sightings: looking through them, and one with all that is known of it."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlencode

from flask import Blueprint, g, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from match_server.api.auth import Gatekeeper
from match_server.api.errors import status_of
from match_server.container import Services
from match_server.db.text_search import folded
from match_server.pages.filters import in_words
from match_server.schemas.base import Page
from match_server.schemas.collections import CollectionQuery
from match_server.schemas.decisions import DecisionGiven
from match_server.schemas.events import EventQuery, EventView
from match_server.schemas.persons import PersonQuery, PersonView
from match_server.schemas.validation import validated
from match_server.services.audit.chain import Actor, act_as
from shared.clock import rfc3339
from shared.errors import Conflict, MalformedInput, MusterError, NotFound

_SHOWN = 60
_NAMESAKES = 12
_COLLECTIONS = 100
_FIELDS = ("camera", "who", "person", "collection", "decision", "since", "until")
_FILTERS = ("camera", "person", "collection", "decision")


@dataclass(frozen=True, slots=True)
class Namesake:
    """Somebody whom a name that was looked for may mean."""

    collection: str
    person: PersonView


def add_event_pages(blueprint: Blueprint, services: Services, gatekeeper: Gatekeeper) -> None:
    """`/events` and `/events/<event>`."""

    @blueprint.get("/events")
    def events() -> AnyResponse:
        visitor = gatekeeper.viewer(request)
        if visitor is None:
            return redirect(url_for("pages.login"))
        asked = {name: request.args.get(name, "").strip() for name in _FIELDS}
        number = min(max(request.args.get("page", default=1, type=int), 1), 1_000_000)
        namesakes = _namesakes(services, asked["who"]) if asked["who"] else []
        if asked["who"]:
            asked["person"], asked["collection"] = _meant(asked["who"], namesakes)
        found = None
        if asked["person"] or not asked["who"]:
            found = services.events.page(_query(asked, number))
        link = _links(asked)
        page = render_template(
            "events.html",
            asked=asked,
            filtered=any(asked.values()),
            found=found,
            namesakes=namesakes,
            person=_name_of(services, asked, found),
            cameras=sorted({one.camera for one in services.presence.now().items}),
            number=number,
            pages=0 if found is None else -(-found.total // _SHOWN),
            link=link,
            by_key=visitor.key_id != "open-page",
        )
        return make_response(page)

    @blueprint.get("/events/<event>")
    def event(event: str) -> AnyResponse:
        visitor = gatekeeper.viewer(request)
        if visitor is None:
            return redirect(url_for("pages.login"))
        return make_response(_event_page(event, by_key=visitor.key_id != "open-page"))

    def _event_page(event: str, *, by_key: bool, problem: str | None = None) -> str:
        shown = services.events.get(event)
        decision = None
        with contextlib.suppress(NotFound):
            decision = services.decisions.get(event)
        return render_template(
            "event.html",
            event=shown,
            decision=decision,
            problem=problem,
            reasons=shown.quality.reasons,
            collection=shown.collection,
            editing=gatekeeper.editor(request) is not None,
            by_key=by_key,
        )

    @blueprint.post("/events/<event>/decide")
    def decide(event: str) -> AnyResponse:
        editor = gatekeeper.editor(request)
        if editor is None:
            return redirect(url_for("pages.edit", next=url_for("pages.event", event=event)))
        act_as(Actor(who=editor.key_id, role=editor.role, request_id=g.request_id))
        given = request.form.get("decision", "")
        try:
            if given == "undo":
                services.decisions.undo(event)
            else:
                body = {"decision": given}
                if given == "person":
                    body["person"] = _person_meant(services, event, request.form.get("who", ""))
                services.decisions.decide(event, validated(DecisionGiven, body))
        except MusterError as error:
            page = _event_page(event, by_key=True, problem=in_words(error))
            return make_response(page, status_of(error))
        return redirect(url_for("pages.event", event=event), code=303)


def _person_meant(services: Services, event: str, who: str) -> str:
    """The id of the person that a form names, by id or by name. Raises NotFound, Conflict."""
    who = who.strip()
    collection = services.events.get(event).collection or ""
    with contextlib.suppress(NotFound):
        return services.persons.get(collection, who).id
    query = validated(PersonQuery, {"q": who, "size": _NAMESAKES})
    named = services.persons.page(collection, query).items
    exact = [one for one in named if one.name.casefold() == who.casefold()]
    if len(exact) == 1:
        return exact[0].id
    if exact:
        raise Conflict(f"several persons are named {who!r}: give the id of the one that is meant")
    raise NotFound(f"nobody in {collection!r} is named {who!r}: enroll them first")


def _query(asked: dict[str, str], number: int) -> EventQuery:
    """What the form asks for. Raises MalformedInput."""
    given = {name: asked[name] for name in _FILTERS if asked[name]}
    times = {name: _moment(asked[name]) for name in ("since", "until") if asked[name]}
    return validated(EventQuery, {**given, **times, "page": number, "size": _SHOWN})


def _moment(text: str) -> str:
    """A time of the form: where it names no zone (no script ran), it is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise MalformedInput(f"{text!r} is no time like 2026-11-22T12:00") from None
    return rfc3339(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))


def _namesakes(services: Services, name: str) -> list[Namesake]:
    """Persons of all collections whose name holds this text."""
    found: list[Namesake] = []
    for collection in services.collections.page(CollectionQuery(size=_COLLECTIONS)).items:
        query = validated(PersonQuery, {"q": name, "size": _NAMESAKES})
        persons = services.persons.page(collection.name, query).items
        found += [Namesake(collection.name, person) for person in persons]
    return found[:_NAMESAKES]


def _meant(name: str, namesakes: list[Namesake]) -> tuple[str, str]:
    """Id and collection of the one who is meant; nothing when it may be several or nobody."""
    exact = [one for one in namesakes if folded(one.person.name) == folded(name)]
    only = exact if len(exact) == 1 else namesakes
    return (only[0].person.id, only[0].collection) if len(only) == 1 else ("", "")


def _name_of(services: Services, asked: dict[str, str], found: Page[EventView] | None) -> str:
    """The name of whom the list is about."""
    person = asked["person"]
    if not person:
        return ""
    for event in found.items if found is not None else []:
        if event.person is not None and event.person.id == person:
            return event.person.name
    names = [asked["collection"]]
    if not asked["collection"]:
        query = CollectionQuery(size=_COLLECTIONS)
        names = [one.name for one in services.collections.page(query).items]
    for collection in names:
        with contextlib.suppress(NotFound):
            return services.persons.get(collection, person).name
    return person


def _links(asked: dict[str, str]) -> Callable[[int], str]:
    """Where another page of the same list is."""

    def link(number: int) -> str:
        kept = {name: value for name, value in asked.items() if value and name != "who"}
        return f"?{urlencode({**kept, 'page': number})}"

    return link
