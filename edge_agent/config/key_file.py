"""The key of a box: it seals the outbox and the gallery. Given, or made beside them.

It comes from the settings, else from systemd, else from a file in the state folder.

What each protects from: a key beside the store, from whoever gets a copy of the store alone (a
backup, a file that was sent); a key that systemd unseals with the machine's TPM, also from whoever
takes the card or disk out of the box. Neither protects from somebody who is root on the box while
it runs.
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
"""Faults of a disk that is full, read-only or broken: somebody may help."""


def box_keys(state_dir: Path, given: Path | None) -> Keyring:
    """The keys in the file `given`, else in systemd's credential, else in the state folder.

    Only there is one made when it is missing, for this user alone (0600). Raises
    ConfigurationError for a file that cannot be read or holds no key, Unavailable where the disk
    does not take a new one at the moment.
    """
    if given is not None:
        return Keyring.from_file(given)
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if credentials and (Path(credentials) / CREDENTIAL).exists():
        return Keyring.from_file(Path(credentials) / CREDENTIAL)
    own = state_dir / _FILE
    if not own.exists():
        _make(own)
    return Keyring.from_file(own)


def _make(path: Path) -> None:
    """A new key, durable before anything is sealed with it; never one that is half written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(path, f"{Key.new().text}\n".encode("ascii"), mode=0o600)
    except OSError as error:
        kind = Unavailable if error.errno in TAKES_NOTHING else ConfigurationError
        raise kind(f"the box's key {path} cannot be written: {error.strerror}") from error
