"""The pages of sightings: a list that can be searched, and the details of each."""

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime

from flask import Blueprint, g, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from match_server.api.errors import status_of
from match_server.container import Services
from match_server.db.text_search import folded
from match_server.pages.filters import as_sentence
from match_server.pages.lists import collection_names, page_count, page_links, page_number
from match_server.schemas.base import Page
from match_server.schemas.decisions import DecisionGiven
from match_server.schemas.events import EventQuery, EventView
from match_server.schemas.persons import PersonQuery, PersonView
from match_server.schemas.validation import validated
from match_server.services.audit.chain import Actor, act_as
from shared.clock import rfc3339
from shared.errors import Conflict, MalformedInput, MusterError, NotFound

_SHOWN = 60
_NAMESAKES = 12
_FIELDS = ("camera", "who", "person", "collection", "decision", "since", "until")
_FILTERS = ("camera", "person", "collection", "decision")


@dataclass(frozen=True, slots=True)
class Namesake:
    """A person whose name matches the text in the filter."""

    collection: str
    person: PersonView


def add_event_pages(blueprint: Blueprint, services: Services) -> None:
    """Adds `/events`, `/events/<event>` and the form that decides on it."""

    @blueprint.get("/events")
    def events() -> AnyResponse:
        fields = {name: request.args.get(name, "").strip() for name in _FIELDS}
        number = page_number()
        namesakes = _namesakes(services, fields["who"]) if fields["who"] else []
        if fields["who"]:
            fields["person"], fields["collection"] = _only_match(fields["who"], namesakes)
        sightings = None
        if fields["person"] or not fields["who"]:
            sightings = services.events.page(_query(fields, number))
        page = render_template(
            "events.html",
            fields=fields,
            filtered=any(fields.values()),
            sightings=sightings,
            namesakes=namesakes,
            person=_name_of(services, fields, sightings),
            cameras=sorted({item.camera for item in services.presence.now().items}),
            number=number,
            pages=0 if sightings is None else page_count(sightings.total, _SHOWN),
            link=page_links({**fields, "who": ""}),
        )
        return make_response(page)

    @blueprint.get("/events/<event>")
    def event(event: str) -> AnyResponse:
        return make_response(event_page(event))

    def event_page(event: str, problem: str | None = None) -> str:
        view = services.events.get(event)
        decision = None
        with contextlib.suppress(NotFound):
            decision = services.decisions.get(event)
        return render_template(
            "event.html",
            event=view,
            decision=decision,
            problem=problem,
            reasons=view.quality.reasons,
            collection=view.collection,
        )

    @blueprint.post("/events/<event>/decide")
    def decide(event: str) -> AnyResponse:
        if g.editor is None:
            return redirect(url_for("pages.edit", next=url_for("pages.event", event=event)))
        act_as(Actor(who=g.editor.key_id, role=g.editor.role, request_id=g.request_id))
        decision = request.form.get("decision", "")
        try:
            if decision == "undo":
                services.decisions.undo(event)
            else:
                body = {"decision": decision}
                if decision == "person":
                    body["person"] = _person_id(services, event, request.form.get("who", ""))
                services.decisions.decide(event, validated(DecisionGiven, body))
        except MusterError as error:
            page = event_page(event, problem=as_sentence(error))
            return make_response(page, status_of(error))
        return redirect(url_for("pages.event", event=event), code=303)


def _person_id(services: Services, event: str, who: str) -> str:
    """Returns the id of the person that a form names by id or name. Raises NotFound, Conflict."""
    who = who.strip()
    collection = services.events.get(event).collection or ""
    with contextlib.suppress(NotFound):
        return services.persons.get(collection, who).id
    query = validated(PersonQuery, {"q": who, "size": _NAMESAKES})
    named = services.persons.page(collection, query).items
    exact = [person for person in named if person.name.casefold() == who.casefold()]
    if len(exact) == 1:
        return exact[0].id
    if exact:
        raise Conflict(f"several persons are named {who!r}: give the id of the right one")
    raise NotFound(f"nobody in {collection!r} is named {who!r}: enroll them first")


def _query(fields: dict[str, str], number: int) -> EventQuery:
    """Returns the query of the form. Raises MalformedInput."""
    filters = {name: fields[name] for name in _FILTERS if fields[name]}
    times = {name: _moment(fields[name]) for name in ("since", "until") if fields[name]}
    return validated(EventQuery, {**filters, **times, "page": number, "size": _SHOWN})


def _moment(text: str) -> str:
    """Returns a time of the form; without a zone (no script ran) it is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise MalformedInput(f"{text!r} is no time like 2026-11-22T12:00") from None
    return rfc3339(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))


def _namesakes(services: Services, name: str) -> list[Namesake]:
    """Returns persons of all collections whose name contains the text."""
    namesakes: list[Namesake] = []
    for collection in collection_names(services):
        query = validated(PersonQuery, {"q": name, "size": _NAMESAKES})
        persons = services.persons.page(collection, query).items
        namesakes += [Namesake(collection, person) for person in persons]
    return namesakes[:_NAMESAKES]


def _only_match(name: str, namesakes: list[Namesake]) -> tuple[str, str]:
    """Returns id and collection of the only match; empty texts if there is none, or several."""
    exact = [match for match in namesakes if folded(match.person.name) == folded(name)]
    only = exact if len(exact) == 1 else namesakes
    return (only[0].person.id, only[0].collection) if len(only) == 1 else ("", "")


def _name_of(services: Services, fields: dict[str, str], sightings: Page[EventView] | None) -> str:
    """Returns the name of the person in the filter."""
    person = fields["person"]
    if not person:
        return ""
    for event in sightings.items if sightings is not None else []:
        if event.person is not None and event.person.id == person:
            return event.person.name
    for collection in (
        [fields["collection"]] if fields["collection"] else collection_names(services)
    ):
        with contextlib.suppress(NotFound):
            return services.persons.get(collection, person).name
    return person
