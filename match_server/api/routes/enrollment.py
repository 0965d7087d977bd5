"""Images and templates of persons: enrolling, reading and removing them."""

from itertools import chain

from flask import Response, request

from match_server.api.auth import access_check, current_principal
from match_server.api.client_connection import can_take
from match_server.api.response_buffer import buffered
from match_server.api.routing import RawBody, Routes
from match_server.container import Services
from match_server.schemas.base import NDJSON, Page, Paging
from match_server.schemas.batches import BatchLine, BatchQuery, BatchVerdict
from match_server.schemas.persons import (
    Enrolled,
    Enrollment,
    ImageView,
    Removed,
    TemplateCreate,
    TemplateDetail,
    TemplateQuery,
    TemplateView,
    TemplateWritten,
)
from match_server.services.auth.keys import Permission
from match_server.services.batches.reader import items_of
from shared.errors import MalformedInput

_COLLECTION = "/v1/collections/<collection>"
_PERSON = f"{_COLLECTION}/persons/<person>"


def image_routes(services: Services) -> Routes:
    routes = Routes("images")
    references = services.references

    @routes.add(
        "POST",
        f"{_PERSON}/images",
        Permission.ENROLL,
        status=201,
        errors=(404, 409, 422),
        example={"image": "/9j/4AAQSkZJRg==", "store": True},
    )
    def enroll_image(collection: str, person: str, body: Enrollment) -> Enrolled:
        """Enroll a picture, or a template."""
        return services.enroller.enroll(collection, person, body)

    @routes.add("GET", f"{_PERSON}/images", Permission.REFERENCES, errors=(404,))
    def list_images(collection: str, person: str, query: Paging) -> Page[ImageView]:
        """List a person's images."""
        return references.images(collection, person, query)

    @routes.add("GET", "/v1/images/<image>", Permission.REFERENCES, errors=(404,))
    def get_image(image: str) -> ImageView:
        """Read an image's record."""
        return references.image(image)

    @routes.add(
        "GET",
        "/v1/images/<image>/content",
        Permission.REFERENCES,
        errors=(404, 503),
        media_type="image/*",
    )
    def get_image_content(image: str) -> Response:
        """Read the photo, if it was kept."""
        data, media_type = references.photo(image)
        response = Response(data, content_type=media_type)
        response.headers["Cache-Control"] = "private, no-store"
        return response

    @routes.add("DELETE", "/v1/images/<image>", Permission.ENROLL, errors=(404,))
    def remove_image(image: str) -> Removed:
        """Remove an image and its template."""
        return references.remove_image(image)

    return routes


def template_routes(services: Services) -> Routes:
    routes = Routes("templates")

    @routes.add(
        "POST",
        f"{_PERSON}/templates",
        Permission.ENROLL,
        status=201,
        errors=(404, 409),
        example={"template": "ADwAAAAAAAA=", "model_id": services.faces.model_id},
    )
    def enroll_template(collection: str, person: str, body: TemplateCreate) -> TemplateWritten:
        """Enroll a template from elsewhere."""
        return services.enroller.add_template(collection, person, body)

    @routes.add("GET", f"{_PERSON}/templates", Permission.REFERENCES, errors=(404,))
    def list_templates(collection: str, person: str, query: Paging) -> Page[TemplateView]:
        """List a person's templates."""
        return services.references.templates(collection, person, query)

    @routes.add("GET", "/v1/templates/<template>", Permission.REFERENCES, errors=(404,))
    def get_template(template: str, query: TemplateQuery) -> TemplateDetail:
        """Get a template, for enrollers also with its vector."""
        if query.vector:
            current_principal().require(Permission.ENROLL)
        return services.references.template(template, vector=query.vector)

    @routes.add("DELETE", "/v1/templates/<template>", Permission.ENROLL, errors=(404,))
    def remove_template(template: str) -> Removed:
        """Remove a template."""
        return services.references.remove_template(template)

    return routes


def batch_routes(services: Services) -> Routes:
    routes = Routes("images")

    @routes.add(
        "POST",
        f"{_COLLECTION}/enroll",
        Permission.ENROLL,
        errors=(404,),
        example={
            "name": "Eileen Collins",
            "image": "/9j/4AAQSkZJRg==",
            "metadata": {"floor": 3},
        },
        raw_body=RawBody(BatchLine, NDJSON),
        response=BatchVerdict,
        media_type=NDJSON,
    )
    def enroll_many(collection: str, query: BatchQuery) -> Response:
        """Enroll many pictures or templates; each gets its verdict as it is done."""
        services.collections.get(collection)  # errors of the whole request come before a verdict
        items = items_of(request, services.settings.max_body_bytes)
        first = next(items, None)
        if first is None:
            raise MalformedInput("the batch is empty: send at least one file or one line")
        groups = services.batches.run(
            collection, chain([first], items), query, admitted=access_check()
        )
        lines = ("".join(verdict.line() for verdict in group).encode() for group in groups)
        data = buffered(lines, can_take(request.environ), services.settings.data_dir)
        return Response(data, mimetype=NDJSON)

    return routes
