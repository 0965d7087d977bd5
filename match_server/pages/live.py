"""The live page: who is in front of which camera."""

from typing import Any

from flask import Blueprint, g, jsonify, make_response, render_template
from werkzeug.wrappers import Response as AnyResponse

from match_server.container import Services
from match_server.schemas.events import EventQuery
from shared.clock import rfc3339
from shared.errors import Unauthenticated

_SHOWN = 60  # sightings on the page


def add_live_page(blueprint: Blueprint, services: Services) -> None:
    """Adds `/`, and `/standing.json` for its script."""

    def standing_now() -> dict[str, Any]:
        """Returns the number of enrolled persons, and all cameras with the people before them."""
        persons = services.events.persons(services.clock.now())
        return {"persons": persons, **services.presence.now().model_dump(mode="json")}

    @blueprint.get("/standing.json")
    def standing() -> AnyResponse:
        if g.viewer is None:
            raise Unauthenticated("sign in at /login")
        return jsonify(standing_now())

    @blueprint.get("/")
    def live() -> AnyResponse:
        events = services.events.page(EventQuery(size=_SHOWN)).items
        return make_response(
            render_template(
                "live.html",
                events=events,
                initial=[event.model_dump(mode="json") for event in events],
                standing=standing_now(),
                now=rfc3339(services.clock.now()),
            )
        )
