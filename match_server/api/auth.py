"""Who asks: a key in `Authorization: Bearer`, or the page's cookie for reading."""

import ipaddress
from urllib.parse import urlsplit

from flask import Request, g
from itsdangerous import BadSignature, URLSafeTimedSerializer

from match_server.services.law.keys import Keys, Permission, Principal
from match_server.services.law.limits import Limits
from match_server.settings import Settings
from shared.errors import Forbidden, Unauthenticated

COOKIE = "muster_session"
SESSION_S = 30 * 24 * 3600
_READING = frozenset({Permission.READ, Permission.EVENTS})
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


class Gatekeeper:
    """Decides who a request comes from.

    A browser cannot send a key when it opens a page, a picture or an event stream, and a key in an
    address would end up in logs. So `/login` takes a key once and answers a signed cookie
    (HttpOnly, SameSite=Strict) that names the key, not contains it, and that is good for reading
    events and persons only, whatever the key's role. Revoking the key ends the session.
    """

    def __init__(self, settings: Settings, keys: Keys, secret: bytes) -> None:
        self._settings = settings
        self._keys = keys
        self._limits = Limits(
            per_key=settings.requests_per_minute,
            bad_keys=settings.bad_keys_per_minute,
            store=settings.rate_limit_store,
        )
        self._signer = URLSafeTimedSerializer(secret, salt="muster-page-session")

    def require(self, request: Request, permission: Permission) -> Principal:
        """Who asks.

        Raises Unauthenticated, Forbidden when the role does not allow it, and RateLimited.
        """
        principal = self._principal(request, permission)
        g.key_id = principal.key_id
        self._limits.admit(principal.key_id)
        principal.require(permission)
        return principal

    def viewer(self, request: Request) -> Principal | None:
        """Who looks at the page: by cookie or, where the page is open, from this machine."""
        session = request.cookies.get(COOKIE)
        if session is not None:
            try:
                key_id = self._signer.loads(session, max_age=SESSION_S)
            except BadSignature:
                key_id = None
            known = self._keys.still_valid(key_id) if isinstance(key_id, str) else None
            if known is not None and known.may(Permission.EVENTS):
                return Principal(key_id=known.key_id, role="viewer")
        if self._settings.open_page and _is_local(request):
            return Principal(key_id="open-page", role="viewer")
        return None

    def session_for(self, request: Request, key: str) -> str:
        """The cookie for a key.

        Raises Unauthenticated, Forbidden for a key that may not, and RateLimited.
        """
        principal = self._recognised(request, key)
        if not principal.may(Permission.EVENTS):
            raise Forbidden(f"a key of role {principal.role!r} may not watch events")
        return str(self._signer.dumps(principal.key_id))

    def admit_form(self, request: Request, key: str, permission: Permission) -> Principal:
        """Who sends a form with a key of their own, for this one time; raises as `require`."""
        principal = self._recognised(request, key)
        g.key_id = principal.key_id
        self._limits.admit(principal.key_id)
        principal.require(permission)
        return principal

    def _principal(self, request: Request, permission: Permission) -> Principal:
        header = request.headers.get("Authorization")
        if header is not None:
            scheme, _, key = header.partition(" ")
            if scheme.lower() != "bearer" or not key.strip():
                raise Unauthenticated("send the key as `Authorization: Bearer KEY`")
            return self._recognised(request, key.strip())
        if request.method in ("GET", "HEAD") and permission in _READING:
            visitor = self.viewer(request)
            if visitor is not None:
                return visitor
        raise Unauthenticated("this call needs a key: `Authorization: Bearer KEY`")

    def _recognised(self, request: Request, key: str) -> Principal:
        """Whose key it is. Who sends wrong ones is soon not listened to."""
        address = request.remote_addr or ""
        self._limits.before_key(address, key)
        try:
            principal = self._keys.recognise(key)
        except Unauthenticated:
            self._limits.bad_key(address)
            raise
        self._limits.good_key(key)
        return principal


def _is_local(request: Request) -> bool:
    """From this machine, and asked for by this machine's name.

    The second keeps a web page of somebody else, whose name was made to point here, from reading
    along in the visitor's browser.
    """
    try:
        loopback = ipaddress.ip_address(request.remote_addr or "").is_loopback
    except ValueError:
        return False
    return loopback and urlsplit(f"//{request.host}").hostname in _LOCAL_NAMES
