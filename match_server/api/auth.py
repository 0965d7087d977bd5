"""Authentication: by a key in `Authorization: Bearer`, or by the cookies of the pages."""

import ipaddress
import secrets
from collections.abc import Callable
from functools import lru_cache
from urllib.parse import urlsplit

from flask import Request, g
from itsdangerous import BadSignature, URLSafeTimedSerializer

from match_server.services.auth.keys import Keys, Permission, Principal
from match_server.services.auth.page_sessions import SESSION_S, PageSessions
from match_server.services.auth.rate_limits import Limits
from match_server.services.revision import Revision
from match_server.settings import Settings
from shared.errors import Forbidden, Unauthenticated

COOKIE = "muster_session"
EDITING_COOKIE = "muster_editing"
EDITING_S = 3600
EDITING_HEADER = "X-Muster-Page"  # a page of another site cannot send it: browsers ask us first
_READING = frozenset({Permission.READ, Permission.EVENTS})
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def current_principal() -> Principal:
    """The caller of the API in this request."""
    principal: Principal = g.principal
    return principal


def request_revision() -> Revision:
    """The revision of the database that the caller's key was checked at, in this request."""
    revision: Revision = g.revision
    return revision


def access_check() -> Callable[[], None]:
    """A function for long responses, which checks the key of this request again.

    It raises Unauthenticated or Forbidden when the key was revoked or has expired.
    """
    check: Callable[[], None] = g.access_check
    return check


def require_device(device: str) -> None:
    """Raises Forbidden when the caller's key is of another device."""
    own = current_principal().device
    if own is not None and own != device:
        raise Forbidden(f"this key speaks for device {own!r}, not for {device!r}")


class Gatekeeper:
    """Finds out who sends a request, and limits how often.

    A browser cannot send a key when it opens a page, a picture or an event stream, and a key in a
    URL would end up in logs. So `/login` takes a key once and returns a signed cookie (HttpOnly,
    SameSite=Strict). The cookie contains the id of the key, not the key. It allows to read events
    and persons only, whatever the role of the key. Revoking the key ends the session.

    To edit people on the pages, a visitor enters a key that may enroll, and gets a second cookie
    for an hour. That cookie allows what an enroller may do. For writing, the header that our
    scripts send must come with it.
    """

    def __init__(
        self, settings: Settings, keys: Keys, sessions: PageSessions, secret: bytes
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._sessions = sessions
        self._limits = Limits(
            per_key=settings.requests_per_minute,
            bad_keys=settings.bad_keys_per_minute,
            store=settings.rate_limit_store,
        )
        self._signer = URLSafeTimedSerializer(secret, salt="muster-page-session")
        self._editing = URLSafeTimedSerializer(secret, salt="muster-page-editing")

    def admit(self, request: Request, permission: Permission) -> None:
        """Admit a request of the API, and set `current_principal` and `access_check` for it.

        Raises Unauthenticated, RateLimited, and Forbidden when the role does not allow it.
        """
        g.revision = self._keys.revision()
        principal = self._principal(request, permission, g.revision)
        g.principal = self._admitted(principal, permission)
        g.access_check = lambda: self._principal(
            request, permission, self._keys.revision()
        ).require(permission)

    def viewer(self, request: Request) -> Principal | None:
        """The viewer of a page: by cookie or, where the page is open, from this machine."""
        known = self._principal_of(request.cookies.get(COOKIE), self._signer, SESSION_S)
        if known is not None and known.may(Permission.EVENTS):
            return Principal(key_id=known.key_id, role="viewer")
        if self._settings.open_page and _is_local(request):
            return Principal(key_id="open-page", role="viewer")
        return None

    def editor(self, request: Request) -> Principal | None:
        """The editor of people on a page: by the second cookie, of the last hour."""
        known = self._principal_of(request.cookies.get(EDITING_COOKIE), self._editing, EDITING_S)
        if known is not None and known.may(Permission.ENROLL):
            return Principal(key_id=known.key_id, role="enroller")
        return None

    def session_for(self, request: Request, key: str) -> str:
        """The cookie that a key is exchanged for at `/login`.

        Raises Unauthenticated, RateLimited, and Forbidden for a key that may not watch events.
        """
        principal = self._recognised(request, key, self._keys.revision())
        if not principal.may(Permission.EVENTS):
            raise Forbidden(
                f"a key of role {principal.role!r} may not watch events; sign in with one of role "
                "'viewer'"
            )
        return self._cookie(self._signer, principal)

    def editing_for(self, request: Request, key: str) -> str:
        """The cookie for editing people that a key is exchanged for; raises as `session_for`."""
        principal = self._recognised(request, key, self._keys.revision())
        if not principal.may(Permission.ENROLL):
            raise Forbidden(
                f"a key of role {principal.role!r} may not edit people; one of role 'enroller' may"
            )
        return self._cookie(self._editing, principal)

    def sign_out(self, request: Request) -> None:
        """End both sessions of the visitor; copies of the cookies are not valid any more."""
        self._end(request.cookies.get(COOKIE), self._signer, SESSION_S)
        self.stop_editing(request)

    def stop_editing(self, request: Request) -> None:
        """End the session in which people may be edited."""
        self._end(request.cookies.get(EDITING_COOKIE), self._editing, EDITING_S)

    @staticmethod
    def _cookie(signer: URLSafeTimedSerializer, principal: Principal) -> str:
        return str(signer.dumps([principal.key_id, secrets.token_hex(16)]))

    def _end(self, cookie: str | None, signer: URLSafeTimedSerializer, max_age_s: int) -> None:
        ids = _read(cookie, signer, max_age_s)
        if ids is not None:
            self._sessions.end(ids[1])

    def admit_form(self, request: Request, key: str, permission: Permission) -> Principal:
        """The sender of a form that contains a key, for this request only; raises as `admit`."""
        principal = self._recognised(request, key, self._keys.revision())
        return self._admitted(principal, permission)

    def _admitted(self, principal: Principal, permission: Permission) -> Principal:
        g.key_id = principal.key_id
        self._limits.admit(principal.key_id)
        principal.require(permission)
        return principal

    def _principal(self, request: Request, permission: Permission, at: Revision) -> Principal:
        header = request.headers.get("Authorization")
        if header is not None:
            scheme, _, key = header.partition(" ")
            if scheme.lower() != "bearer" or not key.strip():
                raise Unauthenticated("send the key as `Authorization: Bearer KEY`")
            return self._recognised(request, key.strip(), at)
        visitor = self._visitor(request, permission)
        if visitor is not None:
            return visitor
        raise Unauthenticated("this call needs a key: `Authorization: Bearer KEY`")

    def _visitor(self, request: Request, permission: Permission) -> Principal | None:
        """The visitor of a page that sends this request, if a cookie suffices for it."""
        if request.method in ("GET", "HEAD"):
            if permission in _READING:
                return self.viewer(request)
            return self.editor(request) if permission is Permission.REFERENCES else None
        return self.editor(request) if EDITING_HEADER in request.headers else None

    def _principal_of(
        self, cookie: str | None, signer: URLSafeTimedSerializer, max_age_s: int
    ) -> Principal | None:
        """The principal of a cookie; None when the cookie is forged, too old, or was ended."""
        ids = _read(cookie, signer, max_age_s)
        if ids is None or self._sessions.has_ended(ids[1]):
            return None
        return self._keys.still_valid(ids[0])

    def _recognised(self, request: Request, key: str, at: Revision) -> Principal:
        """The principal of a key, at a revision or later.

        An address that sends wrong keys soon gets RateLimited.
        """
        address = client_network(request)
        self._limits.before_key(address, key)
        try:
            principal = self._keys.recognise(key, at)
        except Unauthenticated:
            self._limits.bad_key(address)
            raise
        self._limits.good_key(key)
        return principal


def _read(
    cookie: str | None, signer: URLSafeTimedSerializer, max_age_s: int
) -> tuple[str, str] | None:
    """The ids of key and session in a cookie; None when it is forged."""
    try:
        key_id, session_id = signer.loads(cookie or "", max_age=max_age_s)
    except (BadSignature, ValueError, TypeError):  # the others: a cookie of an earlier version
        return None
    return key_id, session_id


def client_network(request: Request) -> str:
    """The address that a request is counted under; with IPv6, its network of 64 bits.

    A machine can use every address of such a network, and send guesses from each.
    """
    return _network_of(request.remote_addr or "")


@lru_cache(maxsize=4096)
def _network_of(text: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    mapped = address.ipv4_mapped
    return str(mapped or ipaddress.ip_network((address, 64), strict=False))


def require_own_page(request: Request, public_url: str | None) -> None:
    """Raises Forbidden for a form that a page of another site sent.

    Such a page could sign a visitor in with its own key, and so learn what the visitor does.
    Browsers name the sender of a form: over TLS in `Sec-Fetch-Site`, always in `Origin`.
    """
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    own = {request.host} if public_url is None else {request.host, urlsplit(public_url).netloc}
    foreign = origin is not None and urlsplit(origin).netloc not in own
    if site not in ("same-origin", "none") if site is not None else foreign:
        raise Forbidden("this form was sent by a page of another site: open the page and try again")


def _is_local(request: Request) -> bool:
    """Whether a request comes from this machine, and the host in it is this machine.

    The second condition prevents DNS rebinding: the name of a foreign web page could point to this
    machine, and its scripts could then read the pages in the visitor's browser.
    """
    try:
        loopback = ipaddress.ip_address(request.remote_addr or "").is_loopback
    except ValueError:
        return False
    return loopback and urlsplit(f"//{request.host}").hostname in _LOCAL_NAMES
