"""Enrollment codes: a device sends a code and gets its API key, so nobody copies a key by hand.

A code has 40 random bits and is valid once, for 15 minutes. It is stored as an scrypt hash (RFC
7914, 16 MiB and some 50 ms a guess), so an attacker who reads the database cannot try 2^40 codes in
that time. The salt is fixed, because the hash must find the row.
"""

import hashlib
import ssl
from collections import OrderedDict
from datetime import timedelta
from pathlib import Path
from threading import Lock
from typing import Final

from sqlalchemy import delete
from sqlalchemy.orm import Session

from match_server.db.database import Database
from match_server.db.tables import Device, DeviceCode
from match_server.schemas.devices import DeviceCodeMade, DeviceCreate
from match_server.schemas.keys import KeyCreate
from match_server.services.audit.chain import Note, note
from match_server.services.auth.keys import Keys
from match_server.services.devices.devices import Devices, device_named, revoke_keys_of
from shared.clock import Clock
from shared.enrollment_code import Invitation, new_code, plain_code
from shared.errors import ConfigurationError, Conflict, NotFound, RateLimited, Unauthenticated
from shared.wire.device import DeviceGrant

VALID_S: Final = 15 * 60
_SALT: Final = b"muster device code"
_COST: Final = 2**14
_GUESSES: Final = 10  # wrong codes of one address in a minute
_WINDOW_S: Final = 60.0
_ADDRESSES: Final = 10_000  # remembered, those with the latest wrong codes


class DeviceCodes:
    """Makes codes, and creates keys for them.

    Raises ConfigurationError if `public_certificate` names a file without a certificate.
    """

    def __init__(
        self,
        database: Database,
        devices: Devices,
        keys: Keys,
        clock: Clock,
        public_url: str | None,
        public_certificate: Path | None,
    ) -> None:
        self._database = database
        self._devices = devices
        self._keys = keys
        self._clock = clock
        self._public_url = public_url
        self._certificate = _certificate_sha256(public_certificate)
        self._guesses = _Guesses(clock)

    def make(self, device: str) -> DeviceCodeMade:
        """Make a code for a device. Its earlier codes become invalid."""
        code = new_code()
        expires_at = self._clock.now() + timedelta(seconds=VALID_S)
        with self._database.write() as session:
            number = device_named(session, device).number
            self._forget_old(session)
            session.execute(delete(DeviceCode).where(DeviceCode.device_number == number))
            note(session, Note("device_code_created", self._clock.now(), device))
            session.add(
                DeviceCode(digest=_digest(code), device_number=number, expires_at=expires_at)
            )
        invitation = None
        if self._public_url is not None:
            invitation = Invitation(self._public_url, plain_code(code), self._certificate).text()
        return DeviceCodeMade(
            device=device, code=code, expires_at=expires_at, invitation=invitation
        )

    def make_for_new(self, request: DeviceCreate) -> DeviceCodeMade:
        """As `make`; creates the device if it is unknown."""
        try:
            return self.make(request.name)
        except NotFound:
            self._announce(request)
            return self.make(request.name)

    def redeem(self, code: str, address: str, *, signs: bool = False) -> DeviceGrant:
        """Create a key for a code, once, and revoke the earlier keys of the device.

        If the device `signs`, it has to sign its messages over MQTT from now on.

        Raises Unauthenticated for a code that is unknown, used or expired, RateLimited after too
        many wrong codes from `address`.
        """
        self._guesses.require_few(address)
        digest = _digest(code)
        now = self._clock.now()
        with self._database.write() as session:
            row = session.get(DeviceCode, digest, with_for_update=True)
            if row is None or row.expires_at <= now:
                self._guesses.note(address)
                raise Unauthenticated(
                    "this code is unknown: a code is valid for 15 minutes and once; "
                    "`match-server device code` makes another"
                )
            device = session.get_one(Device, row.device_number)
            name, site = device.name, device.site or "main"
            device.site = site
            session.delete(row)
            note(session, Note("device_enrolled", now, name))
            revoke_keys_of(session, name, now)
        made = self._keys.create(KeyCreate(role="device", name=name, device=name))
        with self._database.write() as session:
            device_named(session, name).message_key = made.id if signs else None
        return DeviceGrant(device=name, site=site, key=made.key)

    def _announce(self, request: DeviceCreate) -> None:
        try:
            self._devices.announce(request)
        except Conflict:
            return  # another process has created it

    def _forget_old(self, session: Session) -> None:
        session.execute(delete(DeviceCode).where(DeviceCode.expires_at <= self._clock.now()))


class _Guesses:
    """Counts wrong codes by address, in this process. Bounded: forgets the oldest addresses."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = Lock()
        self._wrong: OrderedDict[str, list[float]] = OrderedDict()

    def require_few(self, address: str) -> None:
        """Raises RateLimited after ten wrong codes from the address within a minute."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            recent = [at for at in self._wrong.get(address, []) if now_s - at < _WINDOW_S]
        if len(recent) >= _GUESSES:
            wait_s = round(_WINDOW_S - (now_s - recent[0])) + 1
            raise RateLimited(
                f"too many wrong codes from this address; try again in {wait_s} s",
                retry_after_s=wait_s,
            )

    def note(self, address: str) -> None:
        with self._lock:
            times = [*self._wrong.pop(address, []), self._clock.monotonic_s()]
            self._wrong[address] = times[-_GUESSES:]
            while len(self._wrong) > _ADDRESSES:
                self._wrong.popitem(last=False)


def _certificate_sha256(file: Path | None) -> str | None:
    """The SHA-256 of the certificate (DER) in a PEM file; None without a file."""
    if file is None:
        return None
    try:
        der = ssl.PEM_cert_to_DER_cert(_first_certificate(file.read_text(encoding="ascii")))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"public_certificate: {file} holds no PEM certificate") from error
    return hashlib.sha256(der).hexdigest()


def _first_certificate(text: str) -> str:
    begin, end = text.index(ssl.PEM_HEADER), text.index(ssl.PEM_FOOTER)
    return text[begin : end + len(ssl.PEM_FOOTER)]


def _digest(code: str) -> bytes:
    plain = plain_code(code).encode("ascii")
    return hashlib.scrypt(plain, salt=_SALT, n=_COST, r=8, p=1, dklen=32)
