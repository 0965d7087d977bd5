"""Collections."""

from match_server.api.routing import Routes
from match_server.container import Services
from match_server.schemas.base import Page
from match_server.schemas.collections import (
    CollectionCreate,
    CollectionErased,
    CollectionPatch,
    CollectionQuery,
    CollectionView,
    CollectionWritten,
)
from match_server.services.auth.keys import Permission

_COLLECTION = "/v1/collections/<collection>"


def collection_routes(services: Services) -> Routes:
    routes = Routes("collections")

    @routes.add(
        "POST",
        "/v1/collections",
        Permission.ADMINISTER,
        status=201,
        errors=(409,),
        example={"name": "staff", "policy": {"threshold": 0.4}},
    )
    def create_collection(body: CollectionCreate) -> CollectionWritten:
        """Create a collection."""
        return services.collections.create(body)

    @routes.add("GET", "/v1/collections", Permission.READ)
    def list_collections(query: CollectionQuery) -> Page[CollectionView]:
        """List the collections."""
        return services.collections.page(query)

    @routes.add("GET", _COLLECTION, Permission.READ, errors=(404,))
    def get_collection(collection: str) -> CollectionView:
        """Read a collection."""
        return services.collections.get(collection)

    @routes.add(
        "PATCH",
        _COLLECTION,
        Permission.ADMINISTER,
        errors=(404, 409),
        example={"policy": {"margin": 0.05}},
    )
    def update_collection(collection: str, body: CollectionPatch) -> CollectionWritten:
        """Change a collection or its policy."""
        return services.collections.change(collection, body)

    @routes.add("DELETE", _COLLECTION, Permission.ADMINISTER, errors=(404,))
    def erase_collection(collection: str) -> CollectionErased:
        """Erase a collection with all that is in it."""
        return services.collections.erase(collection)

    return routes
