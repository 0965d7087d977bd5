"""The pages of people: looking through them, one with photos, and what an enroller may do there.

They only show; what changes something is a call of the contract, made by static/people.js.
"""

from collections.abc import Callable
from urllib.parse import urlencode

from flask import Blueprint, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from match_server.api.auth import EDITING_COOKIE, EDITING_S, Gatekeeper
from match_server.api.errors import status_of
from match_server.container import Services
from match_server.pages.cookies import give_cookie, take_cookie
from match_server.pages.filters import in_words
from match_server.schemas.base import Paging
from match_server.schemas.collections import CollectionQuery
from match_server.schemas.events import EventQuery
from match_server.schemas.persons import PersonQuery
from match_server.schemas.validation import validated
from match_server.services.enrollment.advice import advice
from shared.errors import Forbidden, RateLimited, Unauthenticated

_SHOWN = 60
_COLLECTIONS = 100
_PHOTOS = 100
_SIGHTINGS = 12


def add_people_pages(blueprint: Blueprint, services: Services, gatekeeper: Gatekeeper) -> None:
    """`/people`, `/people/<collection>/<person>`, and `/edit`, which lets one change them."""

    @blueprint.get("/people")
    def people() -> AnyResponse:
        visitor = gatekeeper.viewer(request)
        if visitor is None:
            return redirect(url_for("pages.login"))
        collection = request.args.get("collection") or services.settings.default_collection
        number = min(max(request.args.get("page", default=1, type=int), 1), 1_000_000)
        name = request.args.get("q", "").strip()
        given = {"q": name} if name else {}
        query = validated(PersonQuery, {**given, "page": number, "size": _SHOWN})
        found = services.persons.page(collection, query)
        page = render_template(
            "people.html",
            collection=collection,
            collections=_collections(services),
            q=name,
            found=found,
            number=number,
            pages=-(-found.total // _SHOWN),
            link=_links(collection, name),
            editing=gatekeeper.editor(request) is not None,
            by_key=visitor.key_id != "open-page",
        )
        return make_response(page)

    @blueprint.get("/people/<collection>/<person>")
    def person(collection: str, person: str) -> AnyResponse:
        visitor = gatekeeper.viewer(request)
        if visitor is None:
            return redirect(url_for("pages.login"))
        shown = services.persons.get(collection, person)
        missed = services.points.references.missed(services.collections.get(collection).model_id)
        editing = gatekeeper.editor(request) is not None
        photos = []
        if editing:  # a viewer sees no photos of references
            photos = services.references.images(collection, person, Paging(size=_PHOTOS)).items
        page = render_template(
            "person.html",
            person=shown,
            collection=collection,
            photos=photos,
            advice=advice(shown.templates, missed),
            sightings=services.events.page(
                EventQuery(person=shown.id, collection=collection, size=_SIGHTINGS)
            ),
            editing=editing,
            by_key=visitor.key_id != "open-page",
        )
        return make_response(page)

    @blueprint.route("/edit", methods=["GET", "POST"])
    def edit() -> AnyResponse:
        if gatekeeper.viewer(request) is None:
            return redirect(url_for("pages.login"))
        back = _own_page(request.values.get("next", ""))
        if request.method == "GET":
            return make_response(render_template("edit.html", next=back, error=None))
        try:
            cookie = gatekeeper.editing_for(request, request.form.get("key", "").strip())
        except (Unauthenticated, Forbidden, RateLimited) as error:
            page = render_template("edit.html", next=back, error=in_words(error))
            return make_response(page, status_of(error))
        response = redirect(back, code=303)
        give_cookie(response, EDITING_COOKIE, cookie, EDITING_S)
        return response

    @blueprint.post("/edit/stop")
    def stop_editing() -> AnyResponse:
        gatekeeper.stop_editing(request)
        response = redirect(_own_page(request.form.get("next", "")), code=303)
        take_cookie(response, EDITING_COOKIE)
        return response


def _own_page(path: str) -> str:
    """A path of these pages, as a form gave it; never somewhere else."""
    own = path.startswith(("/people", "/events")) and path.isprintable() and "\\" not in path
    return path if own else "/people"


def _collections(services: Services) -> list[str]:
    found = services.collections.page(CollectionQuery(size=_COLLECTIONS)).items
    return [one.name for one in found]


def _links(collection: str, name: str) -> Callable[[int], str]:
    """Where another page of the same list is."""
    kept = {"collection": collection, **({"q": name} if name else {})}
    return lambda number: f"?{urlencode({**kept, 'page': number})}"
