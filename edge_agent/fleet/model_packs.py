"""Model packs on the device: checked for damage, and verified before they are used."""

import logging
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_agent.config.settings import ModelSettings
from models.face_models import FaceModels, open_models
from models.packs.install import pull
from models.packs.manifest import built_in_manifest
from models.packs.store import DamagedReceipt, installed, require
from models.samples import sample_path
from shared.errors import MusterError, PackError

log = logging.getLogger(__name__)

_SAME: Final = ("obama.jpg", "obama2.jpg")
_OTHER: Final = "biden.jpg"
_MIN_MARGIN: Final = 0.1  # between the similarity of one person and of two


def open_checked(settings: ModelSettings) -> FaceModels:
    """Opens the models, after every file was compared with its checksum.

    Damaged files are downloaded again. Raises PackError with the problem and what to do about it.
    """
    for name in names_of(settings):
        _require_sound(name)
    require_expected(settings)
    return open_models(
        settings.pack,
        detector=settings.detector,
        closer=settings.closer,
        threads=settings.threads,
    )


def fetch(settings: ModelSettings) -> None:
    """Downloads and checks every pack of the settings, for a configuration on trial.

    Raises PackError, also for a pack whose licence a person must accept first.
    """
    for name in names_of(settings):
        pull(name, built_in_manifest())
        _require_sound(name)
    require_expected(settings)


def names_of(settings: ModelSettings) -> list[str]:
    """Returns the names of the needed packs, each once."""
    names = (settings.pack, settings.detector, settings.closer)
    return list(dict.fromkeys(name for name in names if name is not None))


def verify(models: FaceModels) -> str:
    """Verifies that the models can tell faces apart; returns the result as a sentence.

    Every embedder must give finite templates of unit length that differ for two pictures. Where the
    pack `samples` is installed, two portraits of one person must be more similar than portraits of
    two persons. Raises PackError.
    """
    _verify_with_noise(models)
    try:
        pictures = [sample_path(name) for name in (*_SAME, _OTHER)]
    except MusterError:
        return "templates are sound; without the pack `samples` no faces were compared"
    first, second, other = (_template(models, path) for path in pictures)
    same, different = float(first @ second), max(float(first @ other), float(second @ other))
    if same < different + _MIN_MARGIN:
        raise PackError(
            f"the models do not tell people apart: two pictures of one person are alike by "
            f"{same:.2f}, of two persons by {different:.2f}"
        )
    return f"one person is alike by {same:.2f}, two by {different:.2f}"


def _verify_with_noise(models: FaceModels) -> None:
    width, height = models.chip_size
    chips = np.random.default_rng(0).integers(0, 256, (3, height, width, 3), dtype=np.uint8)
    chips[2] = chips[0]
    try:
        first, second, again = (template.vector for template in models.embed(chips))
    except ValueError as error:  # a template that is not finite is not constructed
        raise PackError(f"the embedder gives no usable template: {error}") from error
    if not np.allclose(first, again, atol=1e-3) or float(first @ second) > 0.999:
        raise PackError("the embedder's templates do not depend on the picture as they should")


def _template(models: FaceModels, picture: Path) -> NDArray[np.float32]:
    image = cv2.imread(str(picture))
    if image is None:
        raise PackError(f"the sample {picture.name} cannot be read")
    faces = models.analyze(image.astype(np.uint8, copy=False))
    if not faces or faces[0].template is None:
        raise PackError(f"the models find no face in the sample {picture.name}")
    return faces[0].template.vector


def _require_sound(name: str) -> None:
    """Raises PackError for a missing pack, DamagedPack for one that cannot be downloaded again."""
    damage = _damage(name)
    if not damage:
        return
    log.error("Downloading the damaged pack %s again (%s)", name, damage)
    try:
        pull(name, built_in_manifest(), accept_licence=True)  # it was accepted at the installation
    except PackError as error:
        raise DamagedPack(
            f"the pack {name} is damaged ({damage}) and cannot be downloaded again: {error.message}"
        ) from error
    log.warning("The pack %s is whole again", name)


def _damage(name: str) -> str:
    """Returns the damage of an installed pack as a sentence; empty where there is none."""
    try:
        return "; ".join(require(name).problems())
    except DamagedReceipt as error:
        return error.message


def require_expected(settings: ModelSettings) -> None:
    """Raises PackError where the pack has another embedder than the settings require."""
    if settings.embedder_sha256 is None:
        return
    pack = installed(settings.pack)
    embedder = None if pack is None else pack.pack.file_for("embedder")
    if embedder is None or embedder.sha256 != settings.embedder_sha256:
        has = "none" if embedder is None else f"one with SHA-256 {embedder.sha256}"
        raise PackError(
            f"the pack {settings.pack!r} should have an embedder with SHA-256 "
            f"{settings.embedder_sha256}, and has {has}"
        )


class DamagedPack(PackError):
    """The files of an installed pack are damaged; a later download may help."""
