"""Loads the models of installed packs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from models.alignment import ARCFACE, Alignment
from models.detectors.base import Detector
from models.detectors.centerface import CenterFace
from models.detectors.scrfd import Scrfd
from models.detectors.tiles import Tiles
from models.detectors.ultralight import UltraLight
from models.detectors.yunet import YuNet
from models.embedder import Embedder
from models.landmarks import Landmarks68
from models.occlusion.estimator import WEIGHTS, OcclusionModel
from models.onnx_session import Session
from models.packs.manifest import ModelFile, Role
from models.packs.store import InstalledPack, require, sha256_of
from models.preprocessing import InputSpec
from models.quality.eyes import EyesModel
from models.quality.liveness import LivenessModel
from models.quality.pose import PoseModel
from shared.commands import shown
from shared.errors import PackError

_Model = TypeVar("_Model")

# Measured on 175 pictures without (large) faces: of 109 things that only tiles take for faces, 48
# reach this score, half of them real faces in the background; of people's faces nearly all do.
_SURE = 0.8
_SMALLEST = 20.0  # pixels: nobody is recognised by a smaller face


@dataclass(frozen=True, slots=True)
class Parts:
    """The models of one pack, or with the detector of another pack."""

    detector: Detector
    closer: Detector  # for far faces; takes more time
    crowd: Detector  # the same for stills, where no next frame tells a face from a likeness
    embedder: Embedder
    landmarks: Landmarks68 | None
    pose: PoseModel | None
    liveness: LivenessModel | None
    eyes: EyesModel | None
    occlusion: OcclusionModel  # comes with the code, not with a pack


def load_parts(
    name: str,
    *,
    detector: str | None = None,
    closer: str | None = None,
    threads: int = 1,
    cache: Path | None = None,
) -> Parts:
    """Loads the models of the pack `name`, with the detector of the pack `detector`.

    Closer looks are taken by the detector of the pack `closer`, else by the first one, in tiles.

    What else `name` has not, such as landmarks for an embedder of the user's own, is taken from
    the detector's pack too. PackError when something is missing or does not fit its manifest.
    """
    own = require(name, cache)
    packs = [own] if detector in (None, name) else [own, require(str(detector), cache)]
    embedder = own.file_for("embedder")
    seeing = packs[-1].pack.file_for("detector")
    if seeing is None:
        raise PackError(
            f"the pack {packs[-1].name!r} has no detector: name one that has, such as "
            "detector = 'compact'"
        )
    landmarks = _load(Landmarks68, packs, "landmarks", threads)
    if landmarks is None and seeing.architecture == "ultralight":
        raise PackError(f"{name} has no landmarks, and its detector finds boxes only")
    first = _load_detector(packs[-1], seeing, threads)
    second = None if closer is None else _detector_of(closer, cache, threads)
    return Parts(
        detector=first,
        closer=second or Tiles(first),
        crowd=second or Tiles(first, min_score=_SURE, smallest=_SMALLEST),
        embedder=Embedder(
            _session(own, embedder, threads),
            _spec(embedder),
            own.pack.model_id or "",
            embedder.dimension or 0,
            _alignment(embedder),
        ),
        landmarks=landmarks,
        pose=_load(PoseModel, packs, "pose", threads),
        liveness=_load(LivenessModel, packs, "liveness", threads),
        eyes=_load(EyesModel, packs, "eyes", threads),
        occlusion=OcclusionModel(Session(WEIGHTS, threads=threads)),
    )


def _detector_of(name: str, cache: Path | None, threads: int) -> Detector:
    pack = require(name, cache)
    return _load_detector(pack, pack.file_for("detector"), threads)


def _load_detector(pack: InstalledPack, file: ModelFile, threads: int) -> Detector:
    match file.architecture:
        case "ultralight":
            return UltraLight(_session(pack, file, threads), _spec(file))
        case "centerface":
            return CenterFace(_session(pack, file, threads), _spec(file))
        case "scrfd":
            return Scrfd(_session(pack, file, threads), _spec(file))
        case "yunet":
            _check(pack, file)
            return YuNet(pack.path(file))
        case other:
            raise PackError(f"{pack.name}: {other} is no detector")


def _load(
    make: Callable[[Session, InputSpec], _Model],
    packs: Sequence[InstalledPack],
    role: Role,
    threads: int,
) -> _Model | None:
    """Returns the model for `role` from the first pack that has one."""
    for pack in packs:
        file = pack.pack.file_for(role)
        if file is not None:
            return make(_session(pack, file, threads), _spec(file))
    return None


def _session(pack: InstalledPack, file: ModelFile, threads: int) -> Session:
    _check(pack, file)
    session = Session(pack.path(file), threads=threads)
    spec = _spec(file)
    declared = (1, 1 if spec.colour == "gray" else 3, spec.height, spec.width)
    takes = session.input_shape
    if len(takes) != 4 or any(
        isinstance(has, int) and has != says for has, says in zip(takes, declared, strict=True)
    ):
        raise PackError(f"{pack.name}: {file.name} takes {takes}, its manifest says {declared}")
    return session


def _check(pack: InstalledPack, file: ModelFile) -> None:
    """Raises PackError for a file that has changed: a damaged graph may still run."""
    path = pack.path(file)
    help_ = f"run `{shown(f'face-models pull {pack.name}')}`"
    try:
        is_whole = sha256_of(path) == pack.installed_sha256[file.name]
    except OSError as error:
        raise PackError(f"{path} cannot be read ({error}): {help_}") from error
    if not is_whole:
        raise PackError(f"{path} is damaged, it is not what was installed: {help_}")


def _alignment(file: ModelFile) -> Alignment:
    if file.reference is None:
        return ARCFACE
    return Alignment(_spec(file).size, np.array(file.reference, np.float32))


def _spec(file: ModelFile) -> InputSpec:
    if file.input is None:
        raise PackError(f"{file.name} declares no input")
    return file.input
