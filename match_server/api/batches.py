"""Enrolling many at once, over one request."""

from itertools import chain

from flask import Response, g, request

from match_server.api.client_connection import can_take
from match_server.api.response_buffer import buffered
from match_server.api.routing import Endpoint
from match_server.container import Services
from match_server.schemas.base import NDJSON
from match_server.schemas.batches import BatchLine, BatchQuery, BatchVerdict
from match_server.services.auth.keys import Permission
from match_server.services.batches.reader import items_of
from shared.errors import MalformedInput


def batch_endpoints(services: Services) -> list[Endpoint]:
    """Batches."""
    return [
        Endpoint(
            "POST", "/v1/collections/<collection>/enroll", "images",
            "Enroll many pictures or templates; each gets its verdict as it is done",
            handle=lambda collection, query: _enroll(services, collection, query),
            permission=Permission.ENROLL, query=BatchQuery, body=BatchLine, raw_body=True,
            batch=True, answer=BatchVerdict, media_type=NDJSON, errors=(400, 404, 415),
            example={
                "name": "Eileen Collins",
                "image": "/9j/4AAQSkZJRg==",
                "metadata": {"floor": 3},
            },
        ),
    ]  # fmt: skip


def _enroll(services: Services, collection: str, query: BatchQuery) -> Response:
    """The verdicts as they come. What is wrong with the whole request is said before the first."""
    services.collections.get(collection)
    items = items_of(request, services.settings.max_body_bytes)
    first = next(items, None)
    if first is None:
        raise MalformedInput("the batch is empty: send at least one file or one line")

    groups = services.batches.groups(
        collection, chain([first], items), query, admitted=g.still_admitted
    )
    pieces = (
        "".join(f"{verdict.model_dump_json(exclude_none=True)}\n" for verdict in some).encode()
        for some in groups
    )
    body = buffered(pieces, can_take(request.environ), services.settings.data_dir)
    return Response(body, mimetype=NDJSON)
