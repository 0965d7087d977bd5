"""The pages of people: the list, a person with photos, and the start and end of editing.

The pages themselves change nothing: static/people.js calls the API.
"""

from flask import Blueprint, g, make_response, redirect, render_template, request
from werkzeug.wrappers import Response as AnyResponse

from match_server.api.auth import EDITING_COOKIE, EDITING_S, Gatekeeper
from match_server.api.errors import status_of
from match_server.container import Services
from match_server.pages.cookies import delete_cookie, set_cookie
from match_server.pages.filters import as_sentence
from match_server.pages.lists import collection_names, page_count, page_links, page_number
from match_server.schemas.base import Paging
from match_server.schemas.events import EventQuery
from match_server.schemas.persons import PersonQuery
from match_server.schemas.validation import validated
from match_server.services.enrollment.advice import advice
from shared.errors import Forbidden, RateLimited, Unauthenticated

_SHOWN = 60
_PHOTOS = 100
_SIGHTINGS = 12


def add_people_pages(blueprint: Blueprint, services: Services, gatekeeper: Gatekeeper) -> None:
    """Adds `/people`, `/people/<collection>/<person>`, and `/edit`, for changing them."""

    @blueprint.get("/people")
    def people() -> AnyResponse:
        collection = request.args.get("collection") or services.settings.default_collection
        number = page_number()
        name = request.args.get("q", "").strip()
        filters = {"q": name} if name else {}
        query = validated(PersonQuery, {**filters, "page": number, "size": _SHOWN})
        persons = services.persons.page(collection, query)
        page = render_template(
            "people.html",
            collection=collection,
            collections=collection_names(services),
            q=name,
            persons=persons,
            number=number,
            pages=page_count(persons.total, _SHOWN),
            link=page_links({"collection": collection, "q": name}),
        )
        return make_response(page)

    @blueprint.get("/people/<collection>/<person>")
    def person(collection: str, person: str) -> AnyResponse:
        view = services.persons.get(collection, person)
        missed = services.points.references.missed(services.collections.get(collection).model_id)
        photos = []
        if g.editor is not None:  # a viewer sees no photos of references
            photos = services.references.images(collection, person, Paging(size=_PHOTOS)).items
        page = render_template(
            "person.html",
            person=view,
            collection=collection,
            photos=photos,
            advice=advice(view.templates, missed),
            sightings=services.events.page(
                EventQuery(person=view.id, collection=collection, size=_SIGHTINGS)
            ),
        )
        return make_response(page)

    @blueprint.route("/edit", methods=["GET", "POST"])
    def edit() -> AnyResponse:
        back = _own_page(request.values.get("next", ""))
        if request.method == "GET":
            return make_response(render_template("edit.html", next=back, error=None))
        try:
            cookie = gatekeeper.editing_for(request, request.form.get("key", "").strip())
        except (Unauthenticated, Forbidden, RateLimited) as error:
            page = render_template("edit.html", next=back, error=as_sentence(error))
            return make_response(page, status_of(error))
        response = redirect(back, code=303)
        set_cookie(response, EDITING_COOKIE, cookie, EDITING_S)
        return response

    @blueprint.post("/edit/stop")
    def stop_editing() -> AnyResponse:
        gatekeeper.stop_editing(request)
        response = redirect(_own_page(request.form.get("next", "")), code=303)
        delete_cookie(response, EDITING_COOKIE)
        return response


def _own_page(path: str) -> str:
    """Returns the path of a form if it is one of these pages, else `/people`."""
    own = path.startswith(("/people", "/events")) and path.isprintable() and "\\" not in path
    return path if own else "/people"
