"""API keys."""

from match_server.api.routing import Routes
from match_server.container import Services
from match_server.schemas.base import Page, Paging
from match_server.schemas.keys import KeyCreate, KeyCreated, KeyView
from match_server.services.auth.keys import Permission


def key_routes(services: Services) -> Routes:
    routes = Routes("keys")

    @routes.add(
        "POST",
        "/v1/keys",
        Permission.ADMINISTER,
        status=201,
        example={"role": "device", "name": "front door", "device": "front-door"},
    )
    def create_key(body: KeyCreate) -> KeyCreated:
        """Create a key; it is shown this once."""
        return services.keys.create(body)

    @routes.add("GET", "/v1/keys", Permission.ADMINISTER)
    def list_keys(query: Paging) -> Page[KeyView]:
        """List the keys, without the keys themselves."""
        return services.keys.page(query)

    @routes.add("DELETE", "/v1/keys/<key>", Permission.ADMINISTER, errors=(404,))
    def revoke_key(key: str) -> KeyView:
        """Revoke a key."""
        return services.keys.revoke(key)

    return routes
