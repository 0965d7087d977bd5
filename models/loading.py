"""From installed files to loaded models."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from models.detectors.base import Detector
from models.detectors.centerface import CenterFace
from models.detectors.scrfd import Scrfd
from models.detectors.ultralight import UltraLight
from models.detectors.yunet import YuNet
from models.embedder import Embedder
from models.eyes import EyesModel
from models.inputs import InputSpec
from models.landmarks import Landmarks68
from models.liveness import LivenessModel
from models.packs.manifest import ModelFile, Role
from models.packs.store import InstalledPack, require
from models.pose import PoseModel
from models.session import Session
from shared.errors import PackError

_Model = TypeVar("_Model")


@dataclass(frozen=True, slots=True)
class Parts:
    """The models of one pack, and perhaps the detector of another."""

    detector: Detector
    embedder: Embedder
    landmarks: Landmarks68 | None
    pose: PoseModel | None
    liveness: LivenessModel | None
    eyes: EyesModel | None


def load_parts(
    name: str, *, detector: str | None = None, threads: int = 1, cache: Path | None = None
) -> Parts:
    """The models of the installed pack `name`; PackError when something is missing."""
    pack = require(name, cache)
    embedder = pack.file_for("embedder")
    return Parts(
        detector=load_detector(require(detector, cache) if detector else pack, threads),
        embedder=Embedder(
            _session(pack, embedder, threads),
            _spec(embedder),
            pack.pack.model_id or "",
            embedder.dimension or 0,
        ),
        landmarks=_load(Landmarks68, pack, "landmarks", threads),
        pose=_load(PoseModel, pack, "pose", threads),
        liveness=_load(LivenessModel, pack, "liveness", threads),
        eyes=_load(EyesModel, pack, "eyes", threads),
    )


def load_detector(pack: InstalledPack, threads: int) -> Detector:
    file = pack.file_for("detector")
    match file.architecture:
        case "ultralight":
            return UltraLight(_session(pack, file, threads), _spec(file))
        case "centerface":
            return CenterFace(_session(pack, file, threads), _spec(file))
        case "scrfd":
            return Scrfd(_session(pack, file, threads), _spec(file))
        case "yunet":
            return YuNet(pack.path(file))
        case other:
            raise PackError(f"{pack.name}: {other} is no detector")


def _load(
    make: Callable[[Session, InputSpec], _Model], pack: InstalledPack, role: Role, threads: int
) -> _Model | None:
    file = pack.pack.file_for(role)
    return None if file is None else make(_session(pack, file, threads), _spec(file))


def _session(pack: InstalledPack, file: ModelFile, threads: int) -> Session:
    return Session(pack.path(file), threads=threads)


def _spec(file: ModelFile) -> InputSpec:
    if file.input is None:
        raise PackError(f"{file.name} declares no input")
    return file.input
