"""Model packs on the box: complete, sound and able to tell faces apart before they are used."""

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
_APART: Final = 0.1  # by so much the same person must be more alike than another


def open_sound(settings: ModelSettings) -> FaceModels:
    """The models, once every file has been compared with what was installed.

    Damaged files are fetched again. Raises PackError with what is wrong and what would help.
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
    """Has every pack that the settings name, fetched and checked; for an update on trial.

    Raises PackError; a pack whose licence wants consent is not fetched from afar.
    """
    for name in names_of(settings):
        pull(name, built_in_manifest())
        _require_sound(name)
    require_expected(settings)


def names_of(settings: ModelSettings) -> list[str]:
    """The packs that are needed, each once."""
    wanted = (settings.pack, settings.detector, settings.closer)
    return list(dict.fromkeys(name for name in wanted if name is not None))


def prove(models: FaceModels) -> str:
    """That the models do what they are for; answers how it was seen. Raises PackError.

    Every embedder must give finite templates of unit length that tell two pictures apart. Where
    the pack `samples` is installed, its portraits must show that one person is more alike than two.
    """
    _prove_on_noise(models)
    try:
        pictures = [sample_path(name) for name in (*_SAME, _OTHER)]
    except MusterError:
        return "templates are sound; without the pack `samples` no faces were compared"
    first, second, other = (_template(models, path) for path in pictures)
    same, different = float(first @ second), max(float(first @ other), float(second @ other))
    if same < different + _APART:
        raise PackError(
            f"the models do not tell people apart: two pictures of one person are alike by "
            f"{same:.2f}, of two persons by {different:.2f}"
        )
    return f"one person is alike by {same:.2f}, two by {different:.2f}"


def _prove_on_noise(models: FaceModels) -> None:
    width, height = models.chip_size
    chips = np.random.default_rng(0).integers(0, 256, (3, height, width, 3), dtype=np.uint8)
    chips[2] = chips[0]
    try:
        first, second, again = (one.vector for one in models.embed(chips))
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
    """Raises PackError for a pack that is not there, or damaged and not to be had again."""
    damage = _damage(name)
    if not damage:
        return
    log.error("The pack %s is damaged (%s): fetching it again", name, damage)
    try:
        pull(name, built_in_manifest(), accept_licence=True)  # consent was given when it came
    except PackError as error:
        raise DamagedPack(
            f"the pack {name} is damaged ({damage}) and cannot be fetched again: {error.message}"
        ) from error
    log.warning("The pack %s is whole again", name)


def _damage(name: str) -> str:
    """What is wrong with an installed pack, as a sentence; empty for a sound one."""
    try:
        return "; ".join(require(name).problems())
    except DamagedReceipt as error:
        return error.message


def require_expected(settings: ModelSettings) -> None:
    """Raises PackError where the pack's embedder is another than the settings ask for."""
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
    """An installed pack whose files are not what they were: later, the network may help."""
