"""Persons."""

from match_server.api.routing import Routes
from match_server.container import Services
from match_server.schemas.base import Page
from match_server.schemas.persons import (
    PersonCreate,
    PersonErased,
    PersonPatch,
    PersonQuery,
    PersonView,
    PersonWritten,
)
from match_server.services.auth.keys import Permission

_PERSONS = "/v1/collections/<collection>/persons"
_PERSON = f"{_PERSONS}/<person>"


def person_routes(services: Services) -> Routes:
    routes = Routes("persons")

    @routes.add(
        "POST",
        _PERSONS,
        Permission.ENROLL,
        status=201,
        errors=(404, 409),
        example={
            "name": "Eileen Collins",
            "external_id": "p-4711",
            "metadata": {"floor": 3},
            "groups": ["night-shift"],
        },
    )
    def create_person(collection: str, body: PersonCreate) -> PersonWritten:
        """Create a person."""
        return services.persons.create(collection, body)

    @routes.add("GET", _PERSONS, Permission.READ, errors=(404,))
    def list_persons(collection: str, query: PersonQuery) -> Page[PersonView]:
        """List or look for persons."""
        return services.persons.page(collection, query)

    @routes.add("GET", _PERSON, Permission.READ, errors=(404,))
    def get_person(collection: str, person: str) -> PersonView:
        """Read a person."""
        return services.persons.get(collection, person)

    @routes.add(
        "PATCH",
        _PERSON,
        Permission.ENROLL,
        errors=(404, 409),
        example={"expires_at": "2030-01-01T00:00:00Z"},
    )
    def update_person(collection: str, person: str, body: PersonPatch) -> PersonWritten:
        """Change a person."""
        return services.persons.change(collection, person, body)

    @routes.add("DELETE", _PERSON, Permission.ENROLL, errors=(404,))
    def erase_person(collection: str, person: str) -> PersonErased:
        """Erase a person: images, templates, thumbnails, names."""
        return services.erasures.erase(collection, person)

    return routes
