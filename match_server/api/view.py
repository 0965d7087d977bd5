"""From a route to its Flask view: the caller's key, the inputs, the response as JSON."""

from collections.abc import Callable

from flask import Response, g, request
from pydantic import BaseModel

from match_server.api.access_log import actor_of, log_access
from match_server.api.auth import Gatekeeper, current_principal
from match_server.api.client_connection import allow_slow_client, call_after_response
from match_server.api.parsing import read_body, read_query
from match_server.api.picture_limit import PictureLimit
from match_server.api.routing import JSON, Route
from match_server.container import Services
from match_server.services.audit.chain import act_as


def view_of(
    route: Route, services: Services, gatekeeper: Gatekeeper, pictures: PictureLimit
) -> Callable[..., Response]:
    """The Flask view of a route."""

    def view(**path: str) -> Response:
        if route.permission is not None:
            # Not the proxy: streams check access again when the request's context is gone.
            current = request._get_current_object()  # type: ignore[attr-defined]
            gatekeeper.admit(current, route.permission)
            allow_slow_client(request.environ)
        act_as(actor_of(route, path, g.get("principal"), g.request_id, services.clock.now()))
        inputs: dict[str, object] = dict(path)
        query = body = None
        if not route.takes_picture:  # else the parameters in the query belong to the body
            query = read_query(request, route.query)
        if query is not None:
            inputs["query"] = query
        if route.body is not None:
            inputs["body"] = body = read_body(request, route.body)
        if route.body_permission and (needed := route.body_permission(body)):
            current_principal().require(needed)
        with pictures.admit(body):
            result = route.function(**inputs)
        each_search = services.settings.audit_searches == "each"
        log_access(services.access, route, path, query, each_search=each_search)
        if services.access.is_full:
            call_after_response(request.environ, services.access.flush_full)
        if isinstance(result, BaseModel):
            return Response(result.model_dump_json(), status=route.status, mimetype=JSON)
        return result

    return view
