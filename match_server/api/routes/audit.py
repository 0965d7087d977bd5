"""The audit log, and certificates of erasure."""

from match_server.api.routing import AccessEntry, Routes
from match_server.container import Services
from match_server.schemas.audit import (
    Anchor,
    AuditEntryView,
    AuditQuery,
    ErasureQuery,
    ErasureView,
)
from match_server.schemas.base import Page
from match_server.services.auth.keys import Permission


def audit_routes(services: Services) -> Routes:
    routes = Routes("audit")

    @routes.add("GET", "/v1/audit", Permission.ADMINISTER, access=AccessEntry.COUNTED)
    def list_audit(query: AuditQuery) -> Page[AuditEntryView]:
        """List who did what, newest first."""
        return services.audit.page(query)

    @routes.add("GET", "/v1/audit/anchor", Permission.ADMINISTER)
    def get_audit_anchor() -> Anchor:
        """Read the end of the log, to keep elsewhere and compare by `match-server audit verify`."""
        return services.audit.head()

    @routes.add("GET", "/v1/erasures", Permission.ENROLL)
    def list_erasures(query: ErasureQuery) -> Page[ErasureView]:
        """List certificates of erasure, newest first."""
        return services.erasures.page(query)

    @routes.add("GET", "/v1/erasures/<erasure>", Permission.ENROLL, errors=(404,))
    def get_erasure(erasure: str) -> ErasureView:
        """Read what was erased with a person, and where that is still pending."""
        return services.erasures.get(erasure)

    return routes
