"""Routes: a decorated function stays as it is, and its signature is checked against its path."""

import pytest
from flask import Response

from match_server.api.routing import Routes
from match_server.schemas.base import Paging, PictureRequest
from match_server.schemas.health import Alive
from match_server.services.auth.keys import Permission


def test_a_route_is_read_from_a_function_and_the_function_stays_as_it_is():
    routes = Routes("doors")

    @routes.add("PUT", "/v1/doors/<door>", Permission.ENROLL)
    def open_door(door: str, query: Paging, body: PictureRequest) -> Alive:
        """Open a door."""
        return Alive(version=door)

    (route,) = routes
    assert open_door("front", Paging(), PictureRequest()) == Alive(version="front")
    assert (route.name, route.action) == ("open_door", "PUT /v1/doors/<door>")
    assert (route.query, route.body, route.response) == (Paging, PictureRequest, Alive)
    assert route.takes_picture


def test_the_schema_of_a_finished_response_stands_in_the_decorator():
    routes = Routes("doors")

    @routes.add("GET", "/v1/doors", None, response=Alive)
    def list_doors() -> Response:
        """List the doors."""
        return Response()

    assert [route.response for route in routes] == [Alive]


def test_parameters_that_are_not_those_of_the_path_are_an_error():
    routes = Routes("doors")

    def open_door(window: str) -> Alive:
        """Open a door."""
        return Alive(version=window)

    for path in ("/v1/doors/<door>", "/v1/doors", "/v1/doors/<door>/<window>"):
        with pytest.raises(TypeError, match="open_door"):
            routes.add("POST", path, None)(open_door)
    assert list(routes) == []
