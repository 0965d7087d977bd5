"""Reads secrets. Each stands in its own file or in the environment, never in the settings."""

import os
from pathlib import Path

from shared.errors import ConfigurationError


def read_secret(
    path: Path | None, variable: str | None = None, *, blanks: bool = True
) -> str | None:
    """A secret from its file or, without a file, from the environment; None where it is not set.

    `blanks`: the secret may contain blanks, as a password. Raises ConfigurationError for a file
    that cannot be read or does not hold one line.
    """
    if path is None:
        return None if variable is None else os.environ.get(variable) or None
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the secret in {path} cannot be read: {error}") from error
    if not secret:
        raise ConfigurationError(f"{path} is empty: it should hold one line with a secret")
    if not secret.isprintable():
        lines = len(secret.splitlines())
        what = f"holds {lines} lines" if lines > 1 else "holds a tab or another control character"
        raise ConfigurationError(f"{path} {what}: it should hold one line with a secret")
    if not blanks and " " in secret:
        raise ConfigurationError(
            f"{path} holds a blank inside: it should hold one line with a secret, and this kind "
            "has no blanks"
        )
    return secret
