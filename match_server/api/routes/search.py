"""Detect, search and verify."""

from match_server.api.auth import request_revision
from match_server.api.routing import Routes
from match_server.container import Services
from match_server.schemas.search import (
    Detected,
    DetectRequest,
    Embedded,
    EmbedRequest,
    SearchAnswer,
    SearchEverywhere,
    SearchRequest,
    Verified,
    VerifyRequest,
)
from match_server.services.auth.keys import Permission


def search_routes(services: Services) -> Routes:
    routes = Routes("search")

    @routes.add("POST", "/v1/detect", Permission.SEARCH, example={"image": "/9j/4AAQSkZJRg=="})
    def detect(body: DetectRequest) -> Detected:
        """Find faces in a picture and judge their quality."""
        return services.verification.detect(body.image, body.gate)

    @routes.add(
        "POST",
        "/v1/embed",
        Permission.SEARCH,
        errors=(404, 409),
        example={"image": "/9j/4AAQSkZJRg==", "collection": "staff"},
    )
    def embed(body: EmbedRequest) -> Embedded:
        """Find faces in a picture and make their templates."""
        return services.verification.embed(body)

    @routes.add(
        "POST",
        "/v1/collections/<collection>/search",
        Permission.SEARCH,
        errors=(404, 409, 422),
        example={
            "image": "/9j/4AAQSkZJRg==",
            "limit": 5,
            "groups": ["night-shift"],
            "filter": [{"field": "metadata.floor", "op": "gte", "value": 3}],
        },
        body_permission=lambda body: Permission.ENROLL if body.newcomer else None,
    )
    def search(collection: str, body: SearchRequest) -> SearchAnswer:
        """Search a collection: who is this?"""
        return services.create_on_search.search(collection, body, request_revision())

    @routes.add(
        "POST",
        "/v1/search",
        Permission.SEARCH,
        errors=(404, 409, 422),
        example={"collections": ["staff", "visitors"], "image": "/9j/4AAQSkZJRg=="},
    )
    def search_everywhere(body: SearchEverywhere) -> SearchAnswer:
        """Search several collections: who is this?"""
        return services.identification.search_everywhere(body, request_revision())

    @routes.add(
        "POST",
        "/v1/verify",
        Permission.SEARCH,
        errors=(404, 409, 422),
        example={
            "pair": [
                {"image": "/9j/4AAQSkZJRg=="},
                {"person": "eileen", "collection": "staff"},
            ]
        },
    )
    def verify(body: VerifyRequest) -> Verified:
        """Compare two faces: are they the same person?"""
        return services.verification.verify(body)

    return routes
