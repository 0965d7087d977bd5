"""The key of a device: it encrypts the outbox and the gallery.

It comes from the settings, else from systemd, else from a file in the state folder.

A key in the state folder protects a copy of the outbox or gallery alone, such as a backup. A key
that systemd decrypts with the machine's TPM also protects a stolen card or disk. Neither protects
from root on the running device.
"""

import errno
import os
from pathlib import Path
from typing import Final

from shared.encryption import Key, Keyring
from shared.errors import ConfigurationError, Unavailable
from shared.files import write_durably

CREDENTIAL: Final = "gallery-key"  # its name for systemd's LoadCredential(Encrypted)=
_FILE: Final = "gallery.key"
TAKES_NOTHING: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
"""Errors of a disk that is full, read-only or broken. A person may repair it."""


def device_keys(state_dir: Path, key_file: Path | None) -> Keyring:
    """The keys in `key_file`, else in systemd's credential, else in the state folder.

    In the state folder a missing key is made, for this user alone (0600). Raises
    ConfigurationError for a file that cannot be read or holds no key, Unavailable where a new key
    cannot be written at the moment.
    """
    if key_file is not None:
        return Keyring.from_file(key_file)
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if credentials and (Path(credentials) / CREDENTIAL).exists():
        return Keyring.from_file(Path(credentials) / CREDENTIAL)
    own = state_dir / _FILE
    if not own.exists():
        _make(own)
    return Keyring.from_file(own)


def _make(path: Path) -> None:
    """Writes a new key. It is on the disk, and complete, before it encrypts anything."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(path, f"{Key.new().text}\n".encode("ascii"), mode=0o600)
    except OSError as error:
        kind = Unavailable if error.errno in TAKES_NOTHING else ConfigurationError
        raise kind(f"the box's key {path} cannot be written: {error.strerror}") from error
