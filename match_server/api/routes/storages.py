"""Storages: places for photos."""

from match_server.api.routing import Routes
from match_server.container import Services
from match_server.schemas.base import Page, Paging
from match_server.schemas.storages import (
    StorageCreate,
    StorageRemoved,
    StorageView,
    StorageWritten,
)
from match_server.services.auth.keys import Permission


def storage_routes(services: Services) -> Routes:
    routes = Routes("storages")

    @routes.add(
        "POST",
        "/v1/storages",
        Permission.ADMINISTER,
        status=201,
        errors=(409, 422),
        example={"name": "archive", "uri": "s3://photos/muster"},
    )
    def create_storage(body: StorageCreate) -> StorageWritten:
        """Create a storage for photos, after a test that it can be written."""
        return services.storages.create(body)

    @routes.add("GET", "/v1/storages", Permission.ENROLL)
    def list_storages(query: Paging) -> Page[StorageView]:
        """List the storages."""
        return services.storages.page(query)

    @routes.add("DELETE", "/v1/storages/<storage>", Permission.ADMINISTER, errors=(404, 409))
    def remove_storage(storage: str) -> StorageRemoved:
        """Remove an empty storage."""
        return services.storages.remove(storage)

    return routes
