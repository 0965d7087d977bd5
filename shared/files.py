"""Files that settings name."""

import os
from pathlib import Path


def readable(file: Path | None) -> Path | None:
    """The file, for a validator. ValueError where this user may not read it."""
    if file is not None and not os.access(file, os.R_OK):
        raise ValueError(f"there is no {file} that this user may read")
    return file
