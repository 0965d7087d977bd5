"""Every call of the contract that stores or searches, bound to the services that do it."""

from flask import Response

from match_server.api.routing import Endpoint
from match_server.container import Services
from match_server.schemas.base import Page, Paging
from match_server.schemas.collections import (
    CollectionCreate,
    CollectionErased,
    CollectionPatch,
    CollectionQuery,
    CollectionView,
    CollectionWritten,
)
from match_server.schemas.groups import (
    GroupCreate,
    GroupErased,
    GroupPatch,
    GroupQuery,
    GroupView,
    GroupWritten,
    MembersPut,
    MembersWritten,
)
from match_server.schemas.keys import KeyCreate, KeyCreated, KeyView
from match_server.schemas.persons import (
    Enrolled,
    Enrollment,
    ImageView,
    PersonCreate,
    PersonErased,
    PersonPatch,
    PersonQuery,
    PersonView,
    PersonWritten,
    Removed,
    TemplateCreate,
    TemplateView,
    TemplateWritten,
)
from match_server.schemas.search import (
    Detected,
    DetectRequest,
    SearchAnswer,
    SearchEverywhere,
    SearchRequest,
    Verified,
    VerifyRequest,
)
from match_server.schemas.storages import (
    StorageCreate,
    StorageRemoved,
    StorageView,
    StorageWritten,
)
from match_server.services.auth.keys import Permission

_COLLECTION = "/v1/collections/<collection>"
_PERSON = f"{_COLLECTION}/persons/<person>"
_GROUP = "/v1/groups/<group>"


def collection_endpoints(services: Services) -> list[Endpoint]:
    """Collections."""
    do = services.collections
    return [
        Endpoint(
            "POST", "/v1/collections", "collections", "Create a collection",
            handle=lambda body: do.create(body), permission=Permission.ADMINISTER,
            body=CollectionCreate, answer=CollectionWritten, status=201,
            errors=(400, 409, 503),
            example={"name": "staff", "policy": {"threshold": 0.4}},
        ),
        Endpoint(
            "GET", "/v1/collections", "collections", "List the collections",
            handle=lambda query: do.page(query), permission=Permission.READ,
            query=CollectionQuery, answer=Page[CollectionView], errors=(400,),
        ),
        Endpoint(
            "GET", _COLLECTION, "collections", "Read a collection",
            handle=lambda collection: do.get(collection), permission=Permission.READ,
            answer=CollectionView, errors=(404,),
        ),
        Endpoint(
            "PATCH", _COLLECTION, "collections", "Change a collection or its policy",
            handle=lambda collection, body: do.change(collection, body),
            permission=Permission.ADMINISTER, body=CollectionPatch, answer=CollectionWritten,
            errors=(400, 404, 409), example={"policy": {"margin": 0.05}},
        ),
        Endpoint(
            "DELETE", _COLLECTION, "collections", "Erase a collection with all that is in it",
            handle=lambda collection: do.erase(collection), permission=Permission.ADMINISTER,
            answer=CollectionErased, errors=(404,),
        ),
    ]  # fmt: skip


def person_endpoints(services: Services) -> list[Endpoint]:
    """Persons."""
    do = services.persons
    return [
        Endpoint(
            "POST", f"{_COLLECTION}/persons", "persons", "Create a person",
            handle=lambda collection, body: do.create(collection, body),
            permission=Permission.ENROLL, body=PersonCreate, answer=PersonWritten, status=201,
            errors=(400, 404, 409),
            example={
                "name": "Eileen Collins",
                "external_id": "p-4711",
                "metadata": {"floor": 3},
                "groups": ["night-shift"],
            },
        ),
        Endpoint(
            "GET", f"{_COLLECTION}/persons", "persons", "List or look for persons",
            handle=lambda collection, query: do.page(collection, query),
            permission=Permission.READ, query=PersonQuery, answer=Page[PersonView],
            errors=(400, 404),
        ),
        Endpoint(
            "GET", _PERSON, "persons", "Read a person",
            handle=lambda collection, person: do.get(collection, person),
            permission=Permission.READ, answer=PersonView, errors=(404,),
        ),
        Endpoint(
            "PATCH", _PERSON, "persons", "Change a person",
            handle=lambda collection, person, body: do.change(collection, person, body),
            permission=Permission.ENROLL, body=PersonPatch, answer=PersonWritten,
            errors=(400, 404, 409), example={"expires_at": "2030-01-01T00:00:00Z"},
        ),
        Endpoint(
            "DELETE", _PERSON, "persons", "Erase a person: images, templates, thumbnails, names",
            handle=lambda collection, person: services.erasures.erase(collection, person),
            permission=Permission.ENROLL, answer=PersonErased, errors=(404,),
        ),
    ]  # fmt: skip


def group_endpoints(services: Services) -> list[Endpoint]:
    """Groups of persons."""
    do = services.groups
    return [
        Endpoint(
            "POST", "/v1/groups", "groups", "Create a group in a collection",
            handle=lambda body: do.create(body), permission=Permission.ENROLL,
            body=GroupCreate, answer=GroupWritten, status=201, errors=(400, 404, 409),
            example={"collection": "staff", "name": "Night shift", "id": "night-shift"},
        ),
        Endpoint(
            "GET", "/v1/groups", "groups", "List or look for groups",
            handle=lambda query: do.page(query), permission=Permission.READ,
            query=GroupQuery, answer=Page[GroupView], errors=(400, 404),
        ),
        Endpoint(
            "GET", _GROUP, "groups", "Read a group",
            handle=lambda group: do.get(group), permission=Permission.READ,
            answer=GroupView, errors=(404,),
        ),
        Endpoint(
            "PATCH", _GROUP, "groups", "Change a group",
            handle=lambda group, body: do.change(group, body), permission=Permission.ENROLL,
            body=GroupPatch, answer=GroupWritten, errors=(400, 404, 409),
            example={"name": "Late shift"},
        ),
        Endpoint(
            "DELETE", _GROUP, "groups", "Erase a group; its persons stay",
            handle=lambda group: do.erase(group), permission=Permission.ENROLL,
            answer=GroupErased, errors=(404,),
        ),
        Endpoint(
            "PUT", f"{_GROUP}/persons", "groups", "Let persons into a group and out of it",
            handle=lambda group, body: do.put_persons(group, body),
            permission=Permission.ENROLL, body=MembersPut, answer=MembersWritten,
            errors=(400, 404), example={"add": ["eileen"], "remove": ["amelia"]},
        ),
    ]  # fmt: skip


def reference_endpoints(services: Services) -> list[Endpoint]:
    """Images and templates: enrollment."""
    do, enroller = services.references, services.enroller
    return [
        Endpoint(
            "POST", f"{_PERSON}/images", "images", "Enroll a picture, or a template",
            handle=lambda collection, person, body: enroller.enroll(collection, person, body),
            permission=Permission.ENROLL, body=Enrollment, picture=True, answer=Enrolled,
            status=201, errors=(400, 404, 409, 413, 415, 422, 503),
            example={"image": "/9j/4AAQSkZJRg==", "store": True},
        ),
        Endpoint(
            "GET", f"{_PERSON}/images", "images", "List a person's images",
            handle=lambda collection, person, query: do.images(collection, person, query),
            permission=Permission.REFERENCES, query=Paging, answer=Page[ImageView],
            errors=(400, 404),
        ),
        Endpoint(
            "GET", "/v1/images/<image>", "images", "Read an image's record",
            handle=lambda image: do.image(image), permission=Permission.REFERENCES,
            answer=ImageView, errors=(404,),
        ),
        Endpoint(
            "GET", "/v1/images/<image>/content", "images", "The photo, when it was kept",
            handle=lambda image: _picture(*do.photo(image)), permission=Permission.REFERENCES,
            media_type="image/*", errors=(404, 503),
        ),
        Endpoint(
            "DELETE", "/v1/images/<image>", "images", "Remove an image and its template",
            handle=lambda image: do.remove_image(image), permission=Permission.ENROLL,
            answer=Removed, errors=(404,),
        ),
        Endpoint(
            "POST", f"{_PERSON}/templates", "templates", "Enroll a vector from elsewhere",
            handle=lambda collection, person, body: enroller.add_template(
                collection, person, body
            ),
            permission=Permission.ENROLL, body=TemplateCreate, answer=TemplateWritten, status=201,
            errors=(400, 404, 409, 503),
            example={"template": "ADwAAAAAAAA=", "model_id": services.faces.model_id},
        ),
        Endpoint(
            "GET", f"{_PERSON}/templates", "templates", "List a person's templates",
            handle=lambda collection, person, query: do.templates(collection, person, query),
            permission=Permission.REFERENCES, query=Paging, answer=Page[TemplateView],
            errors=(400, 404),
        ),
        Endpoint(
            "DELETE", "/v1/templates/<template>", "templates", "Remove a template",
            handle=lambda template: do.remove_template(template), permission=Permission.ENROLL,
            answer=Removed, errors=(404,),
        ),
    ]  # fmt: skip


def storage_endpoints(services: Services) -> list[Endpoint]:
    """Where photos go."""
    do = services.storages
    return [
        Endpoint(
            "POST", "/v1/storages", "storages", "Name a place for photos; it is tried at once",
            handle=lambda body: do.create(body), permission=Permission.ADMINISTER,
            body=StorageCreate, answer=StorageWritten, status=201, errors=(400, 409, 422),
            example={"name": "archive", "uri": "s3://photos/muster"},
        ),
        Endpoint(
            "GET", "/v1/storages", "storages", "List the storages",
            handle=lambda query: do.page(query), permission=Permission.ENROLL,
            query=Paging, answer=Page[StorageView], errors=(400,),
        ),
        Endpoint(
            "DELETE", "/v1/storages/<storage>", "storages", "Forget a storage that is empty",
            handle=lambda storage: do.remove(storage), permission=Permission.ADMINISTER,
            answer=StorageRemoved, errors=(404, 409),
        ),
    ]  # fmt: skip


def search_endpoints(services: Services) -> list[Endpoint]:
    """Detect, search, verify."""
    do = services.verification
    return [
        Endpoint(
            "POST", "/v1/detect", "search", "Find faces in a picture and judge their quality",
            handle=lambda body: do.detect(body.image, body.gate), permission=Permission.SEARCH,
            body=DetectRequest, picture=True, answer=Detected, errors=(400, 413, 415, 503),
            example={"image": "/9j/4AAQSkZJRg=="},
        ),
        Endpoint(
            "POST", f"{_COLLECTION}/search", "search", "Who is this?",
            handle=lambda collection, body: services.identification.search(collection, body),
            permission=Permission.SEARCH, also=_to_create,
            body=SearchRequest, picture=True, answer=SearchAnswer,
            errors=(400, 404, 409, 413, 415, 422, 503),
            example={
                "image": "/9j/4AAQSkZJRg==",
                "limit": 5,
                "groups": ["night-shift"],
                "filter": [{"field": "metadata.floor", "op": "gte", "value": 3}],
            },
        ),
        Endpoint(
            "POST", "/v1/search", "search", "Who is this, of several collections?",
            handle=lambda body: services.identification.search_everywhere(body),
            permission=Permission.SEARCH, body=SearchEverywhere, picture=True,
            answer=SearchAnswer, errors=(400, 404, 409, 413, 415, 422, 503),
            example={"collections": ["staff", "visitors"], "image": "/9j/4AAQSkZJRg=="},
        ),
        Endpoint(
            "POST", "/v1/verify", "search", "Are these two the same person?",
            handle=lambda body: do.verify(body), permission=Permission.SEARCH,
            body=VerifyRequest, picture=True, answer=Verified,
            errors=(400, 404, 409, 413, 415, 422, 503),
            example={
                "pair": [
                    {"image": "/9j/4AAQSkZJRg=="},
                    {"person": "eileen", "collection": "staff"},
                ]
            },
        ),
    ]  # fmt: skip


def key_endpoints(services: Services) -> list[Endpoint]:
    """API keys."""
    do = services.keys
    return [
        Endpoint(
            "POST", "/v1/keys", "keys", "Create a key; it is shown this once",
            handle=lambda body: do.create(body), permission=Permission.ADMINISTER,
            body=KeyCreate, answer=KeyCreated, status=201, errors=(400,),
            example={"role": "device", "name": "front door", "device": "front-door"},
        ),
        Endpoint(
            "GET", "/v1/keys", "keys", "List the keys, without the keys themselves",
            handle=lambda query: do.page(query), permission=Permission.ADMINISTER,
            query=Paging, answer=Page[KeyView], errors=(400,),
        ),
        Endpoint(
            "DELETE", "/v1/keys/<key>", "keys", "Revoke a key",
            handle=lambda key: do.revoke(key), permission=Permission.ADMINISTER,
            answer=KeyView, errors=(404,),
        ),
    ]  # fmt: skip


def _to_create(body: SearchRequest) -> Permission | None:
    return Permission.ENROLL if body.newcomer is not None else None


def _picture(data: bytes, media_type: str) -> Response:
    response = Response(data, content_type=media_type)
    response.headers["Cache-Control"] = "private, no-store"
    return response
