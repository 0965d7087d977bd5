"""Sample pictures and the sample video, from the installed pack `samples`."""

from pathlib import Path

from models.packs.store import require
from shared.errors import NotFound


def sample_path(name: str, *, cache: Path | None = None) -> Path:
    """Returns a file of the pack `samples`, e.g. `obama.jpg` or `carphone_pristine.mp4`.

    Raises PackError when the pack is not installed, NotFound if it has no such file.
    """
    pack = require("samples", cache)
    names = [file.name for file in pack.pack.files]
    if name not in names:
        raise NotFound(f"there is no sample {name!r}; there are {', '.join(names)}")
    return pack.folder / name
