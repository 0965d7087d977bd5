"""Secrets, which never stand in a configuration: each in its own file, or in the environment."""

import os
from pathlib import Path

from shared.errors import ConfigurationError


def read_secret(path: Path | None, variable: str | None = None) -> str | None:
    """A secret from its file or, failing that, from the environment; None where there is none.

    Raises ConfigurationError for a file that cannot be read or holds something else.
    """
    if path is None:
        return None if variable is None else os.environ.get(variable) or None
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the secret in {path} cannot be read: {error}") from error
    if not secret or not secret.isprintable() or len(secret.split()) != 1:
        raise ConfigurationError(f"{path} should hold one line with one secret, and does not")
    return secret
