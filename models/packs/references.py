"""Reference calibrations and thresholds of models."""

from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from models.packs.manifest import Pack, built_in_manifest
from models.packs.store import installed, installed_names
from shared.errors import PackError

REFERENCE = "reference.json"
"""File name of the reference calibration in the folder of a pack that is not built in."""


def reference_of(model_id: str, cache: Path | None = None) -> bytes | None:
    """Returns the reference calibration of a model (JSON); None if its pack has none.

    Built-in packs bring theirs as `models/packs/calibrations/<pack>.json`; that of other packs
    lies in the folder where the pack is installed.
    """
    for name, pack in built_in_manifest().packs.items():
        file = resources.files(__package__).joinpath("calibrations", f"{name}.json")
        if pack.model_id == model_id and file.is_file():
            return file.read_bytes()
    for pack, folder in _installed(cache):
        if pack.model_id == model_id and (folder / REFERENCE).is_file():
            return (folder / REFERENCE).read_bytes()
    return None


def threshold_of(model_id: str, cache: Path | None = None) -> float | None:
    """Returns the manifest's threshold for a model; None if it has none."""
    packs = [*built_in_manifest().packs.values(), *(pack for pack, _ in _installed(cache))]
    return next((pack.threshold for pack in packs if pack.model_id == model_id), None)


def _installed(cache: Path | None) -> Iterator[tuple[Pack, Path]]:
    for name in installed_names(cache):
        try:
            pack = installed(name, cache)
        except PackError:  # a damaged receipt: `face-models verify` says so
            continue
        if pack is not None:
            yield pack.pack, pack.folder
