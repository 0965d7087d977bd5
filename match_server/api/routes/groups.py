"""Groups of persons."""

from match_server.api.routing import Routes
from match_server.container import Services
from match_server.schemas.base import Page
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
from match_server.services.auth.keys import Permission

_GROUP = "/v1/groups/<group>"


def group_routes(services: Services) -> Routes:
    routes = Routes("groups")

    @routes.add(
        "POST",
        "/v1/groups",
        Permission.ENROLL,
        status=201,
        errors=(404, 409),
        example={"collection": "staff", "name": "Night shift", "id": "night-shift"},
    )
    def create_group(body: GroupCreate) -> GroupWritten:
        """Create a group in a collection."""
        return services.groups.create(body)

    @routes.add("GET", "/v1/groups", Permission.READ, errors=(404,))
    def list_groups(query: GroupQuery) -> Page[GroupView]:
        """List or look for groups."""
        return services.groups.page(query)

    @routes.add("GET", _GROUP, Permission.READ, errors=(404,))
    def get_group(group: str) -> GroupView:
        """Read a group."""
        return services.groups.get(group)

    @routes.add(
        "PATCH", _GROUP, Permission.ENROLL, errors=(404, 409), example={"name": "Late shift"}
    )
    def update_group(group: str, body: GroupPatch) -> GroupWritten:
        """Change a group."""
        return services.groups.change(group, body)

    @routes.add("DELETE", _GROUP, Permission.ENROLL, errors=(404,))
    def erase_group(group: str) -> GroupErased:
        """Erase a group; its persons stay."""
        return services.groups.erase(group)

    @routes.add(
        "PUT",
        f"{_GROUP}/persons",
        Permission.ENROLL,
        errors=(404,),
        example={"add": ["eileen"], "remove": ["amelia"]},
    )
    def put_group_persons(group: str, body: MembersPut) -> MembersWritten:
        """Add persons to a group, and remove persons from it."""
        return services.groups.put_persons(group, body)

    return routes
