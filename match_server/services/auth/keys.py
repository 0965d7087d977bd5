"""API keys: 256 random bits, stored as SHA-256, shown once.

Unlike for passwords a fast hash is enough, because nobody can try 2^256 keys. The first part of a
key finds its row; the hash of the whole key is compared in constant time.
"""

import hashlib
import hmac
import secrets
import threading
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from typing import cast

from sqlalchemy import bindparam, func, select, update

from match_server.db.database import Database
from match_server.db.tables import ApiKey
from match_server.schemas.base import Page, Paging
from match_server.schemas.keys import KeyCreate, KeyCreated, KeyView, Role
from match_server.services.audit.chain import Note, note
from match_server.services.lookups import count_of
from match_server.services.paging import each, page_of
from match_server.services.revision import Revision, RevisionCache, read_revision
from shared.clock import Clock
from shared.errors import Forbidden, MalformedInput, NotFound, Unauthenticated
from shared.wire.message_keys import MessageKey

_PREFIX = "muster"
_ID_BYTES = 6
_SECRET_BYTES = 32
_MAX_KEY_CHARACTERS = 200


class Permission(Enum):
    """The permission that a request needs."""

    ADMINISTER = auto()  # collections, keys
    ENROLL = auto()  # write persons, images, templates
    SEARCH = auto()  # detect, search, verify
    READ = auto()  # collections, persons
    REFERENCES = auto()  # photos and lists of templates
    EVENTS = auto()  # events, stream, snapshots
    PROBES = auto()  # send probes
    FOLLOW = auto()  # the change feed, and snapshots


_ALLOWED: dict[Role, frozenset[Permission]] = {
    "admin": frozenset(Permission),
    "enroller": frozenset({Permission.ENROLL, Permission.READ, Permission.REFERENCES}),
    "searcher": frozenset(
        {Permission.SEARCH, Permission.READ, Permission.REFERENCES, Permission.EVENTS}
    ),
    "device": frozenset({Permission.PROBES, Permission.FOLLOW}),
    "viewer": frozenset({Permission.READ, Permission.EVENTS}),
}


@dataclass(frozen=True, slots=True)
class Principal:
    """The client that makes a request: a key, or a user of the pages."""

    key_id: str
    role: Role
    device: str | None = None  # the only device for which it may send

    def may(self, permission: Permission) -> bool:
        return permission in _ALLOWED[self.role]

    def require(self, permission: Permission) -> None:
        """Raises Forbidden if the role does not have the permission."""
        if not self.may(permission):
            raise Forbidden(
                f"a key of role {self.role!r} may not do this ({permission.name.lower()} is needed)"
            )


class Keys:
    """Creating, listing, revoking and checking keys."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._known = RevisionCache[_Stored]()  # by key id
        self._used: dict[str, datetime] = {}  # by key id, since the last `note_used`
        self._used_lock = threading.Lock()

    def create(self, request: KeyCreate) -> KeyCreated:
        """Create a key. Only this result holds the key itself.

        Raises MalformedInput if it would have expired already.
        """
        now = self._clock.now()
        if request.expires_at is not None and request.expires_at <= now:
            raise MalformedInput("expires_at: lies in the past, so the key would be invalid")
        key_id = secrets.token_hex(_ID_BYTES)
        key = f"{_PREFIX}_{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
        row = ApiKey(
            id=key_id,
            sha256=_digest(key),
            role=request.role,
            name=request.name,
            device=request.device,
            created_at=now,
            expires_at=request.expires_at,
        )
        with self._database.write() as session:
            session.add(row)
            note(session, Note("key_created", now, row.id, details={"role": row.role}))
        return KeyCreated(key=key, **dict(_view(row)))

    def page(self, paging: Paging) -> Page[KeyView]:
        with self._database.read() as session:
            oldest_first = ApiKey.created_at, ApiKey.id
            return page_of(session, select(ApiKey), paging, *oldest_first, views=each(_view))

    def revoke(self, key_id: str) -> KeyView:
        """Revoke a key. It is invalid from the next request on."""
        with self._database.write() as session:
            row = session.get(ApiKey, key_id)
            if row is None:
                raise NotFound(f"there is no key {key_id!r}")
            if row.revoked_at is None:
                row.revoked_at = self._clock.now()
                note(session, Note("key_revoked", row.revoked_at, row.id))
            return _view(row)

    def note_used(self) -> None:
        """Write when keys were last used. Called from time to time: a request causes no write."""
        with self._used_lock:
            used, self._used = self._used, {}
        if not used:
            return
        with self._database.write() as session:
            for key_id, moment in sorted(used.items()):
                session.execute(
                    update(ApiKey).where(ApiKey.id == key_id).values(last_used_at=moment)
                )

    def any_valid(self) -> bool:
        """Whether there is a valid key."""
        valid = select(func.count()).where(
            ApiKey.revoked_at.is_(None),
            ApiKey.expires_at.is_(None) | (ApiKey.expires_at > self._clock.now()),
        )
        with self._database.read() as session:
            return count_of(session, valid) > 0

    def revision(self) -> Revision:
        """The database's revision now, for checks of keys in one request."""
        return read_revision(self._database)

    def recognise(self, key: str, at: Revision) -> Principal:
        """The client with this key, at a revision or later.

        Raises Unauthenticated if the key is unknown, expired or revoked.

        Raises Forbidden for a key of role `device` without a device, which older versions made: it
        could send for every device.
        """
        parts = key.split("_", 2) if len(key) <= _MAX_KEY_CHARACTERS else []
        key_id = parts[1] if len(parts) == 3 and parts[0] == _PREFIX else ""
        known = self._valid(key_id, at) if key_id.isalnum() else None
        same = hmac.compare_digest(_digest(key), bytes(32) if known is None else known.sha256)
        if known is None or not same:
            raise Unauthenticated("this key is unknown, has expired or has been revoked")
        with self._used_lock:
            self._used[key_id] = self._clock.now()
        if known.principal.role == "device" and known.principal.device is None:
            raise Forbidden(
                "this key of role 'device' names no device, so it could send for every box: "
                "revoke it, and enroll the box with a code, or create a key with `match-server "
                "key create --role device --device NAME`"
            )
        return known.principal

    def message_key(self, key_id: str, device: str) -> MessageKey | None:
        """The key that signs and encrypts messages of this device; None if it may not send them."""
        known = self._valid(key_id, self.revision())
        if known is None or not known.principal.may(Permission.PROBES):
            return None
        if known.principal.device != device and known.principal.role == "device":
            return None
        return MessageKey(key_id, known.sha256)

    def still_valid(self, key_id: str) -> Principal | None:
        """The client with the key of this id; None if it was revoked or has expired."""
        known = self._valid(key_id, self.revision())
        return None if known is None else known.principal

    def _valid(self, key_id: str, at: Revision) -> "_Stored | None":
        """The key if it is valid. It is read again after each revision.

        So a revoked key is invalid at once everywhere.
        """
        known = self._known.at(at)
        stored = known.get(key_id)
        if stored is None:
            for sha256, role, device, revoked_at, expires_at in self._database.execute(
                _KEY, {"id": key_id}
            ):
                if revoked_at is None:
                    principal = Principal(key_id, cast(Role, role), device)
                    stored = known[key_id] = _Stored(sha256, principal, expires_at)
        if stored is None or (stored.expires_at and stored.expires_at <= self._clock.now()):
            return None
        return stored


_KEY = select(
    ApiKey.sha256, ApiKey.role, ApiKey.device, ApiKey.revoked_at, ApiKey.expires_at
).where(ApiKey.id == bindparam("id"))


@dataclass(frozen=True, slots=True)
class _Stored:
    """A key that was not revoked."""

    sha256: bytes
    principal: Principal
    expires_at: datetime | None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _view(row: ApiKey) -> KeyView:
    return KeyView(
        id=row.id,
        role=cast(Role, row.role),
        name=row.name,
        device=row.device,
        created_at=row.created_at,
        revoked_at=row.revoked_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
    )
