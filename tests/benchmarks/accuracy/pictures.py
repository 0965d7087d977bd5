"""A folder of pictures, a folder a person, embedded once for each pack and kept in a cache."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
from numpy.typing import NDArray

import models
from match_server.evaluation.folder import side_of
from match_server.picture_folder import pictures_in
from match_server.services.faces import face_engine as server_faces
from match_server.services.faces.engines import installed_engine
from match_server.services.faces.face_engine import FaceEngine
from models.images.decoding import PictureLimits
from models.packs.choice import DetectorChoice
from models.packs.store import default_cache, require
from shared.errors import MusterError

Half = Literal["a", "b"]
Rows = NDArray[np.float32]  # (n, dimension) unit rows

LIKE_SIDE = 0.5
"""A second face with at least this share of the largest face's side makes a picture ambiguous."""

_SAVED_EVERY = 500


@dataclass(frozen=True, slots=True)
class Look:
    """The face models' results for one picture."""

    faces: int
    second: float  # side of the second largest face / side of the largest; 0: there is none
    side: float  # of the largest face, pixels
    score: float  # of the detector
    quality: float
    passed: bool  # the gate `doorway`
    reasons: tuple[str, ...]  # why it did not pass, or why there is no template


@dataclass(frozen=True, slots=True)
class Picture:
    """One usable picture: one face of somebody."""

    person: int  # place in the names
    row: int  # place in the rows
    look: Look


@dataclass(frozen=True, slots=True, eq=False)
class Faces:
    """The pictures of a folder as one pack sees them."""

    pack: str
    model_id: str
    dimension: int
    names: Sequence[str]
    files: Sequence[Path]
    persons: NDArray[np.int64]  # (files,) places in `names`
    looks: Sequence[Look]  # (files,)
    rows: NDArray[np.float16]  # (files, dimension) unit rows, NaN where there is no template

    def in_half(self, name: str, half: Half | None) -> bool:
        """Whether a person belongs to the half that is measured; by the name, so it is stable."""
        odd = hashlib.blake2b(name.encode()).digest()[0] % 2
        return half is None or ("a", "b")[odd] == half

    def usable(self, half: Half | None = None) -> list[Picture]:
        """Pictures of one face, without second copies of a file, of the people of a half."""
        seen: set[bytes] = set()
        usable = []
        for place, (person, look) in enumerate(zip(self.persons.tolist(), self.looks, strict=True)):
            content = self.rows[place].tobytes()
            if not look.faces or look.second >= LIKE_SIDE or content in seen:
                continue
            seen.add(content)
            if self.in_half(self.names[person], half):
                usable.append(Picture(person, place, look))
        return usable

    def vectors(self, pictures: Iterable[Picture]) -> Rows:
        return self.rows[[picture.row for picture in pictures]].astype(np.float32)


def look_at(folder: Path, pack: str, engine: FaceEngine) -> Faces:
    """Embed every picture by the server's own engine; what the cache knows is not done again."""
    files = [path for path in pictures_in(folder) if path.parent != folder]
    if not files:
        raise click.UsageError(f"there is no folder with pictures in {folder}: a folder a person")
    cache = _Cache(pack, engine.dimension)
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    new = [place for place, digest in enumerate(digests) if digest not in cache.looks]
    with click.progressbar(new, label=f"{pack}: embedding") as places:
        for number, place in enumerate(places, start=1):
            cache.add(digests[place], *_look(engine, files[place].read_bytes()))
            if number % _SAVED_EVERY == 0:
                cache.save()
    if new:
        cache.save()
    names = sorted({path.parent.name for path in files})
    numbers = {name: number for number, name in enumerate(names)}
    return Faces(
        pack=pack,
        model_id=engine.model_id,
        dimension=engine.dimension,
        names=names,
        files=files,
        persons=np.array([numbers[path.parent.name] for path in files], np.int64),
        looks=[cache.looks[digest] for digest in digests],
        rows=np.stack([cache.rows[digest] for digest in digests]),
    )


def _look(engine: FaceEngine, data: bytes) -> tuple[Look, NDArray[np.float32] | None]:
    try:
        faces = engine.analyze(data, gate="doorway")
    except MusterError as error:
        return Look(0, 0.0, 0.0, 0.0, 0.0, False, (error.code,)), None
    if not faces:
        return Look(0, 0.0, 0.0, 0.0, 0.0, False, ("no_face",)), None
    face, side = faces[0], side_of(faces[0])
    if face.template is None:
        raise RuntimeError("the face models returned a face without a template")
    look = Look(
        faces=len(faces),
        second=side_of(faces[1]) / side if len(faces) > 1 and side > 0 else 0.0,
        side=side,
        score=float(face.score),
        quality=face.quality.score,
        passed=face.quality.passed,
        reasons=tuple(face.quality.reasons),
    )
    return look, face.template.vector


class _Cache:
    """Looks and templates by the digest of the picture, for one state of the pack and the code."""

    def __init__(self, pack: str, dimension: int) -> None:
        self._path = default_cache().parent / "bench" / f"accuracy-{pack}-{_state(pack)}.npz"
        self._nothing = np.full(dimension, np.nan, np.float16)
        self.looks: dict[str, Look] = {}
        self.rows: dict[str, NDArray[np.float16]] = {}
        if self._path.exists():
            with np.load(self._path, allow_pickle=False) as kept:
                for digest, line, row in zip(
                    kept["digests"], kept["looks"], kept["rows"], strict=True
                ):
                    self.looks[str(digest)] = _read_look(json.loads(str(line)))
                    self.rows[str(digest)] = row

    def add(self, digest: str, look: Look, vector: NDArray[np.float32] | None) -> None:
        self.looks[digest] = look
        self.rows[digest] = self._nothing if vector is None else vector.astype(np.float16)

    def save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(".part.npz")
        np.savez(
            part,
            digests=np.array(list(self.looks)),
            looks=np.array([json.dumps(asdict(look)) for look in self.looks.values()]),
            rows=np.stack([self.rows[digest] for digest in self.looks]),
        )
        part.replace(self._path)


def _read_look(fields: dict[str, Any]) -> Look:
    return Look(**{**fields, "reasons": tuple(fields["reasons"])})


def _state(pack: str) -> str:
    """Changes with the pack and with the code between a picture and its template."""
    receipt = require(pack)
    digest = hashlib.sha256(receipt.pack.model_dump_json().encode())
    digest.update(json.dumps(receipt.installed_sha256, sort_keys=True).encode())
    folder = Path(models.__file__).parent
    sources = [
        path
        for path in folder.rglob("*.py")
        if not {"training", "packs", "cli.py"} & set(path.parts)
    ]
    network = folder / "occlusion" / "occlusion.onnx"
    for path in [*sorted(sources), network, Path(server_faces.__file__)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def engine_of(pack: str) -> FaceEngine:
    """The engine by which a server enrolls with this pack. Raises PackError."""
    return installed_engine(pack, PictureLimits(), DetectorChoice())
