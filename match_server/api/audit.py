"""What each call tells the audit log, and the calls that read it."""

from collections.abc import Mapping
from datetime import datetime

from match_server.api.routing import Access, Endpoint
from match_server.container import Services
from match_server.schemas.audit import (
    Anchor,
    AuditEntryView,
    AuditQuery,
    ErasureQuery,
    ErasureView,
)
from match_server.schemas.base import Page
from match_server.services.audit.access import AccessLog
from match_server.services.audit.chain import Actor
from match_server.services.auth.keys import Permission, Principal


def audit_endpoints(services: Services) -> list[Endpoint]:
    """The audit log, and certificates of erasure."""
    audit, erasures = services.audit, services.erasures
    return [
        Endpoint(
            "GET", "/v1/audit", "audit", "Who did what, newest first",
            handle=lambda query: audit.page(query), permission=Permission.ADMINISTER,
            query=AuditQuery, answer=Page[AuditEntryView], errors=(400,),
            access=Access.GATHERED,
        ),
        Endpoint(
            "GET", "/v1/audit/anchor", "audit",
            "Where the log ends: keep it elsewhere, and compare with `match-server audit verify`",
            handle=lambda: audit.head(), permission=Permission.ADMINISTER, answer=Anchor,
        ),
        Endpoint(
            "GET", "/v1/erasures", "audit", "Certificates of erasure, newest first",
            handle=lambda query: erasures.page(query), permission=Permission.ENROLL,
            query=ErasureQuery, answer=Page[ErasureView], errors=(400,),
        ),
        Endpoint(
            "GET", "/v1/erasures/<erasure>", "audit",
            "What was erased with a person, and who has not forgotten yet",
            handle=lambda erasure: erasures.get(erasure), permission=Permission.ENROLL,
            answer=ErasureView, errors=(404,),
        ),
    ]  # fmt: skip


def actor_of(
    endpoint: Endpoint,
    path: Mapping[str, str],
    principal: Principal | None,
    request_id: str,
    now: datetime,
) -> Actor:
    """On whose behalf a call is answered."""
    subject, person = _about(path)
    return Actor(
        who="anybody" if principal is None else f"key {principal.key_id}",
        role=None if principal is None else principal.role,
        request_id=request_id,
        call=_action(endpoint) if endpoint.changes else None,
        subject=subject,
        person=person,
        at=now,
    )


def tell_access(
    log: AccessLog,
    endpoint: Endpoint,
    path: Mapping[str, str],
    query: object,
    *,
    each_search: bool,
) -> None:
    """Tell the audit log of a call that only looked, if it is one to be told."""
    told = endpoint.told
    if told is None:
        return
    subject, person = _about(path)
    if subject is None:
        subject = getattr(query, "collection", None)
    if told is Access.EACH or (each_search and endpoint.permission is Permission.SEARCH):
        log.saw(_action(endpoint), subject, person)
    else:
        log.count(_action(endpoint), person or subject)


def _action(endpoint: Endpoint) -> str:
    return f"{endpoint.method} {endpoint.path}"


def _about(path: Mapping[str, str]) -> tuple[str | None, str | None]:
    """The id of what a call is about, and of whom, from its address."""
    others = [value for name, value in path.items() if name != "person"]
    return others[-1] if others else None, path.get("person")
