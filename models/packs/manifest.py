"""The manifest: packs, files, checksums and licences, as types."""

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.preprocessing import InputSpec
from shared.errors import PackError
from shared.ids import NAME_PATTERN

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Role = Literal["detector", "landmarks", "embedder", "pose", "liveness", "eyes", "sample"]
Architecture = Literal[
    "ultralight", "centerface", "scrfd", "yunet",
    "points68", "embedding", "hopenet", "minifasnet", "eyes24",
]  # fmt: skip
_CHIP = (112, 112)  # pixels of an aligned face, where a pack declares no reference of its own
Point = tuple[float, float]
Step = Literal["flush-denormals", "dynamic-batch", "dynamic-size"]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Entry):
    """A file to fetch: a registry's archive, or a URL."""

    url: str = Field(pattern=r"^(npm:|pypi:|https?://|file:).+$")
    sha256: Sha256 | None = None  # of an archive; the files taken from it have their own as well
    size: int = Field(ge=1)  # bytes to be fetched, about
    archive: Literal["wheel", "source"] = "wheel"  # which of a PyPI release's archives
    platform: str | None = None  # a wheel that exists per platform: take this one everywhere
    python: str | None = None  # and the Python version that goes with it, e.g. "3.11"


class ModelFile(_Entry):
    """An installed file, with all facts that its use needs."""

    name: Name
    role: Role
    architecture: Architecture | None = None  # None for a sample
    source: Name
    member: str | None = None  # path inside the source's archive; None: the source is the file
    sha256: Sha256  # of the file as published, before the steps below
    input: InputSpec | None = None  # None for a sample
    output: str = ""  # what the numbers mean
    dimension: int | None = Field(default=None, ge=8, le=4096)  # of an embedder's templates
    reference: tuple[Point, Point, Point, Point, Point] | None = None
    """Of an embedder: where its chip, of the input's size, shows the left eye, the right eye, the
    nose tip and the mouth's corners, in pixels. None: ArcFace's places in 112 x 112 pixels."""
    steps: tuple[Step, ...] = ()  # what installation does to the graph

    @model_validator(mode="after")
    def _says_how_it_is_used(self) -> "ModelFile":
        if self.role != "sample" and (self.architecture is None or self.input is None):
            raise ValueError(f"{self.name}: a model names its architecture and its input")
        if self.role == "embedder" and self.dimension is None:
            raise ValueError(f"{self.name}: an embedder names its dimension")
        if self.role == "embedder" and self.input:
            self._require_chip(self.input.width, self.input.height)
        elif self.reference is not None:
            raise ValueError(f"{self.name}: only an embedder has reference points")
        return self

    def _require_chip(self, width: int | None, height: int | None) -> None:
        if self.reference is None:
            if (width, height) != _CHIP:
                raise ValueError(
                    f"{self.name}: an embedder takes chips of 112 x 112, or names its `reference`: "
                    "five points in pixels of its chip"
                )
        elif width is None or height is None:
            raise ValueError(f"{self.name}: an embedder names the width and height of its chips")
        elif not all(0 < x < width and 0 < y < height for x, y in self.reference):
            raise ValueError(f"{self.name}: the reference points lie inside {width} x {height}")
        elif self.reference[0][0] >= self.reference[1][0]:
            raise ValueError(f"{self.name}: the first reference point is the eye on the left")


class Pack(_Entry):
    """Files that are installed together, and facts about their licence."""

    title: str
    description: str
    licence: str
    commercial_use: bool
    homepage: str
    disputed: str | None = None  # why nobody can be sure what the licence allows
    trained_by: str = "not stated by the publisher"
    trained_on: str = "not stated by the publisher"
    model_id: str | None = Field(default=None, min_length=1, max_length=80)
    threshold: float | None = Field(default=None, gt=0, le=1)
    """Cosine from which a face is named where the pack has no reference calibration."""
    sources: dict[Name, Source]
    files: tuple[ModelFile, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _hangs_together(self) -> "Pack":
        names = [file.name for file in self.files]
        if len(set(names)) != len(names):
            raise ValueError("two files of one pack have the same name")
        roles = [file.role for file in self.files if file.role != "sample"]
        if len(set(roles)) != len(roles):
            raise ValueError("a pack has at most one model for each role")
        for file in self.files:
            if file.source not in self.sources:
                raise ValueError(f"{file.name} comes from {file.source!r}, which is no source")
        if self.disputed is not None and self.commercial_use:
            raise ValueError("a pack whose licence is disputed does not claim commercial use")
        if ("embedder" in roles) != (self.model_id is not None):
            raise ValueError("a pack with an embedder, and no other, has a model_id")
        return self

    def installs_as(self, other: "Pack") -> bool:
        """Returns whether both install the same files."""
        own, others = ((pack.model_id, pack.sources, pack.files) for pack in (self, other))
        return own == others

    def file_for(self, role: Role) -> ModelFile | None:
        return next((file for file in self.files if file.role == role), None)


class Figures(_Entry):
    """Measured accuracy and costs of a pack; docs/models.md describes the measurement."""

    face_ms: float | None = Field(default=None, gt=0)  # processor time of one template, one thread
    missed_percent: float | None = Field(default=None, ge=0, le=100)
    """FNIR at FPIR 1 %, 2,860 persons enrolled with one picture each."""
    picture_ms: float | None = Field(default=None, gt=0)  # detector, 1280 x 720, one thread
    note: str = ""


class Manifest(_Entry):
    """All packs by name, and the figures measured of them.

    Figures stand beside the packs: a new measurement makes no installed pack an old one.
    """

    packs: dict[Name, Pack]
    figures: dict[Name, Figures] = Field(default_factory=dict)

    def pack(self, name: str) -> Pack:
        """Returns the pack of this name. Raises PackError with the names that exist."""
        try:
            return self.packs[name]
        except KeyError:
            known = ", ".join(self.packs)
            raise PackError(f"there is no pack {name!r}; there are {known}") from None

    def joined(self, other: "Manifest") -> "Manifest":
        """Returns this manifest with a user's packs added.

        Raises PackError when a pack or a model id would come to mean something else: templates
        are compared by model id alone.
        """
        for name in other.packs.keys() & self.packs.keys():
            raise PackError(f"the pack {name!r} is built in: give yours another name")
        ids = _embedders(self.packs)
        for model_id, sha256 in _embedders(other.packs).items():
            if ids.get(model_id, sha256) != sha256:
                raise PackError(f"the model id {model_id!r} belongs to another file")
        return Manifest(
            packs={**self.packs, **other.packs}, figures={**other.figures, **self.figures}
        )


@cache
def built_in_manifest() -> Manifest:
    """Returns the built-in packs."""
    text = resources.files(__package__).joinpath("manifest.toml").read_text(encoding="utf-8")
    return _parse(text, "the built-in manifest")


def read_manifest(path: Path) -> Manifest:
    """Reads a user's manifest. Raises PackError with the place of what is wrong.

    A `file:` source is a path, taken from the manifest's folder unless it is absolute.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PackError(f"the manifest {path} cannot be read: {error}") from error
    manifest = _parse(text, str(path))
    base = path.absolute().parent
    packs = {name: _with_absolute_files(pack, base) for name, pack in manifest.packs.items()}
    return Manifest(packs=packs, figures=manifest.figures)


def _with_absolute_files(pack: Pack, base: Path) -> Pack:
    sources = {
        name: source.model_copy(update={"url": f"file:{base / source.url.removeprefix('file:')}"})
        if source.url.startswith("file:")
        else source
        for name, source in pack.sources.items()
    }
    return pack.model_copy(update={"sources": sources})


def _parse(text: str, origin: str) -> Manifest:
    try:
        return Manifest.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise PackError(f"{origin} is not TOML: {error}") from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
            for item in error.errors()
        )
        raise PackError(f"{origin} is not a manifest: {problems}") from error


def _embedders(packs: Mapping[str, Pack]) -> dict[str, str]:
    return {
        pack.model_id: embedder.sha256
        for pack in packs.values()
        if pack.model_id is not None and (embedder := pack.file_for("embedder")) is not None
    }
