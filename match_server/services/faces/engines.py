"""The face models of each collection, which differ after a change of model."""

import threading
from collections.abc import Callable

import cv2

from match_server.db.tables import Collection
from match_server.services.collection_ref import CollectionRef
from match_server.services.faces.face_engine import FaceEngine
from models.face_models import FaceModels, open_models
from models.images.decoding import PictureLimits
from models.packs.choice import DetectorChoice
from models.packs.manifest import Pack, built_in_manifest
from models.packs.store import installed, installed_names, require
from shared.errors import ConfigurationError, PackError

FindEngine = Callable[[str], FaceEngine]
"""Finds the engine of a model id other than this server's own. Raises PackError."""


class Engines:
    """Face models by the id of their model, each opened when first needed. Thread-safe."""

    def __init__(self, default: FaceEngine, find: FindEngine) -> None:
        self.default = default  # of new collections, and where no collection is named
        self._find = find
        self._lock = threading.Lock()
        self._engines = {default.model_id: default}

    def of(self, collection: Collection | CollectionRef) -> FaceEngine:
        """The models that make the collection's templates.

        Raises PackError when no pack with them is installed.
        """
        return self.of_model(collection.model_id)

    def of_model(self, model_id: str) -> FaceEngine:
        """The models that make templates of this id. Raises PackError when there are none."""
        with self._lock:
            engine = self._engines.get(model_id)
            if engine is None:
                engine = self._engines[model_id] = self._find(model_id)
            return engine


def face_engine(
    name: str, limits: PictureLimits | None = None, detector: DetectorChoice | None = None
) -> FaceEngine:
    """The models of a pack that may not be installed yet; the first picture needs it.

    Raises ConfigurationError when there is no such pack or it makes no templates.
    """
    try:
        present = installed(name)
        pack = built_in_manifest().pack(name) if present is None else present.pack
        return _engine(name, pack, limits or PictureLimits(), detector or DetectorChoice())
    except PackError as error:
        raise ConfigurationError(error.message) from error


def installed_engine(name: str, limits: PictureLimits, detector: DetectorChoice) -> FaceEngine:
    """The models of an installed pack.

    Raises PackError when it is not installed or makes no templates.
    """
    return _engine(name, require(name).pack, limits, detector)


def _engine(name: str, pack: Pack, limits: PictureLimits, detector: DetectorChoice) -> FaceEngine:
    embedder = pack.file_for("embedder")
    if pack.model_id is None or embedder is None or embedder.dimension is None:
        raise PackError(f"the pack {name!r} makes no templates")
    detector_of_pack = detector.of(pack)
    return FaceEngine(
        pack.model_id,
        embedder.dimension,
        lambda: _opened(name, detector_of_pack),
        limits,
    )


def _opened(name: str, detector: str | None) -> FaceModels:
    cv2.setNumThreads(1)  # each picture has a thread; more would take from other pictures
    return open_models(name, detector=detector)


def find_installed(limits: PictureLimits, detector: DetectorChoice) -> FindEngine:
    """Finds a model among the packs that are installed on this machine."""

    def find(model_id: str) -> FaceEngine:
        for name in installed_names():
            pack = installed(name)
            if pack is not None and pack.pack.model_id == model_id:
                return installed_engine(name, limits, detector)
        raise PackError(
            f"no installed pack makes templates of {model_id!r}: install the one that does "
            "(`face-models list`), or search with templates instead of pictures"
        )

    return find
