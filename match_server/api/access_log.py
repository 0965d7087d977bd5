"""What the audit log gets to know of each call: who made it, and what it read."""

from collections.abc import Mapping
from datetime import datetime

from match_server.api.routing import AccessEntry, Route
from match_server.services.audit.access import AccessLog
from match_server.services.audit.chain import Actor
from match_server.services.auth.keys import Permission, Principal

# Devices send these by themselves. They are stored in tables of their own, not in the audit log.
_OWN_TABLES = (Permission.SEARCH, Permission.PROBES)


def actor_of(
    route: Route,
    path: Mapping[str, str],
    principal: Principal | None,
    request_id: str,
    now: datetime,
) -> Actor:
    """The caller, for the entries that the transaction of a call writes."""
    subject, person = _subject_and_person(path)
    changes = route.method != "GET" and route.permission not in _OWN_TABLES
    return Actor(
        who="anybody" if principal is None else f"key {principal.key_id}",
        role=None if principal is None else principal.role,
        request_id=request_id,
        call=route.action if changes else None,
        subject=subject,
        person=person,
        at=now,
    )


def log_access(
    log: AccessLog,
    route: Route,
    path: Mapping[str, str],
    query: object,
    *,
    each_search: bool,
) -> None:
    """Write an entry for a call that only read, if its route has one."""
    entry = _entry_of(route)
    if entry is None:
        return
    subject, person = _subject_and_person(path)
    if subject is None:
        subject = getattr(query, "collection", None)
    if entry is AccessEntry.EACH or (each_search and route.permission is Permission.SEARCH):
        log.saw(route.action, subject, person)
    else:
        log.count(route.action, person or subject)


def _entry_of(route: Route) -> AccessEntry | None:
    if route.access is not None:
        return route.access
    if route.permission is Permission.REFERENCES and route.method == "GET":
        return AccessEntry.EACH
    counted = route.permission in (Permission.SEARCH, Permission.FOLLOW)
    return AccessEntry.COUNTED if counted else None


def _subject_and_person(path: Mapping[str, str]) -> tuple[str | None, str | None]:
    """The ids in the path: of the thing that the call is about, and of the person."""
    others = [value for name, value in path.items() if name != "person"]
    return others[-1] if others else None, path.get("person")
