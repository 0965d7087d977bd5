"""Face models for scenes with a known truth, which stands in the pixels.

The first pixel of a frame holds its number, a chip holds its person and quality. The real pipeline
processes them like real pictures.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from edge_agent.capture.camera import Frame
from edge_agent.vision.probe import Probe
from models.quality.gates import DOORWAY, Gate
from models.types import BgrImage, Detections, Shapes
from shared.wire.quality import Pose, Quality, QualityFactor
from shared.wire.template import Template

FPS = 25.0
SIZE = (640, 360)
_COVERED = 15  # the person of every covered face


@dataclass(frozen=True, slots=True)
class FakeFace:
    """A face in one frame: its person, position, score, and whether it passes the gate."""

    person: int
    x: float
    y: float = 180.0
    score: float = 0.5
    passes: bool = True
    size: float = 60.0
    far: bool = False  # only a closer search finds it
    covered: bool = False  # half of it: its template is like no person's
    pointless: bool = False  # its landmarks are NaN
    features: bool = False  # the aligned face has a texture; without, it is flat
    look: int = 0  # for each number, another texture of the same person (with features)


Scene = Callable[[int], Sequence[FakeFace]]


class FakeFaces:
    """Returns the faces of the scene. It counts its calls and records the size of its batches."""

    def __init__(
        self,
        scene: Scene,
        *,
        turned: Callable[[int], bool] = lambda _: False,
        live: Mapping[int, float] = MappingProxyType({}),  # by person
    ) -> None:
        self._scene = scene
        self._live = live
        self._turned = turned  # the persons for whom the pose model returns a large yaw
        self.batches: list[int] = []
        self.looks = 0
        self.judged = 0
        self.occlusion_looks = 0
        self.closer_looks = 0
        self.liveness_looks = 0

    def detect(
        self, image: BgrImage, *, retry_padded: bool = False, closer: bool = False
    ) -> Detections:
        self.closer_looks += closer
        people = [face for face in self._people(image) if closer or not face.far]
        boxes = np.array([_box(face) for face in people], np.float32).reshape(-1, 4)
        return Detections(boxes, np.full(len(people), 0.9, np.float32))

    def locate(self, image: BgrImage, detections: Detections) -> Shapes:
        self.looks += len(detections)
        centres = (detections.boxes[:, None, :2] + detections.boxes[:, None, 2:]) / 2
        below = np.stack([np.zeros(5), np.arange(5)], axis=1)
        points = (centres + below).astype(np.float32)
        for face in points:
            x = float(face[0, 0])
            if min(self._people(image), key=lambda other: abs(other.x - x)).pointless:
                face[:] = np.nan
        return Shapes(points, None)

    def align(self, image: BgrImage, points5: NDArray[np.float32]) -> NDArray[np.uint8]:
        chips = np.zeros((len(points5), 112, 112, 3), np.uint8)
        people = self._people(image)
        for chip, points in zip(chips, points5, strict=True):
            face = min(people, key=lambda other: abs(other.x - points[0, 0]))
            if face.features:
                texture = np.random.default_rng([face.person, face.look]).integers(
                    0, 255, (28, 28, 1)
                )
                chip[:] = np.kron(texture, np.ones((4, 4, 1), np.int64)).astype(np.uint8)
            if face.covered:
                chip[56:] = 0
            chip[0, 0] = (face.person, round(face.score * 200), face.passes)
            chip[0, 1] = face.covered
        return chips

    def embedding_chips(
        self,
        image: BgrImage,
        points5: NDArray[np.float32],
        chips: NDArray[np.uint8],
        qualities: Sequence[Quality],
    ) -> NDArray[np.uint8]:
        return chips

    def assess(
        self,
        image: BgrImage,
        detections: Detections,
        shapes: Shapes,
        *,
        poses: list[Pose] | None = None,
        chips: NDArray[np.uint8] | None = None,
        gate: Gate = DOORWAY,
        occlusion: bool = False,
    ) -> list[Quality]:
        if chips is None:
            raise ValueError("the pipeline has the chips already")
        self.occlusion_looks += occlusion * len(chips)
        if poses is not None:
            self.judged += len(poses)
        qualities = []
        for row, chip in enumerate(chips):
            turned = poses is not None and abs(poses[row].yaw) > 45
            factors = [
                QualityFactor(name=name, value=float(well), low=1, high=1, passed=bool(well))
                for name, well in (("sharpness", chip[0, 0, 2]), ("yaw", not turned))
            ]
            if occlusion:
                share = 0.5 * float(chip[0, 1, 0])
                factors.append(
                    QualityFactor(name="occlusion_total", value=share, low=0, high=0.6, passed=True)
                )
            score = float(chip[0, 0, 1]) / 200
            qualities.append(Quality(score=score, factors=tuple(factors)))
        return qualities

    def head_poses(self, image: BgrImage, boxes: NDArray[np.float32]) -> list[Pose] | None:
        person = int(image[image.shape[0] // 2, image.shape[1] // 2, 0])
        return [Pose(yaw=80.0 if self._turned(person) else 0.0, pitch=0, roll=0)] * len(boxes)

    def liveness(self, image: BgrImage, boxes: NDArray[np.float32]) -> NDArray[np.float32] | None:
        self.liveness_looks += len(boxes)
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        height, width = image.shape[:2]
        shown = [
            image[min(max(0, round(y)), height - 1), min(max(0, round(x)), width - 1)]
            for x, y in centres.tolist()
        ]
        return np.array([self._live.get(int(pixel[0]), 0.75) for pixel in shown], np.float32)

    def embed(self, chips: NDArray[np.uint8]) -> list[Template]:
        self.batches.append(len(chips))
        templates = []
        for chip in chips:
            vector = np.zeros(16, np.float32)
            vector[_COVERED if chip[0, 1, 0] else int(chip[0, 0, 0])] = 1.0
            templates.append(Template("fake@1", vector))
        return templates

    def _people(self, image: BgrImage) -> Sequence[FakeFace]:
        return self._scene(int(image[0, 0, 0]) + 256 * int(image[0, 0, 1]))


class Sink:
    """Records the probes of a pipeline, and how many came at a time."""

    def __init__(self) -> None:
        self.probes: list[Probe] = []
        self.puts: list[int] = []

    def put(self, probes: Sequence[Probe]) -> int:
        self.probes += probes
        self.puts.append(len(probes))
        return len(probes)


def person_of(probe: Probe) -> int:
    return int(probe.template.vector.argmax())


def frame_of(scene: Scene, index: int, *, backdrop: int = 0, alone: bool = False) -> Frame:
    """A frame with every face as a patch of its person's own texture, on a seeded wall."""
    width, height = SIZE
    wall = np.random.default_rng(1000 + backdrop).integers(60, 200, (height // 8, width // 8, 3))
    image = np.repeat(np.repeat(wall, 8, axis=0), 8, axis=1).astype(np.uint8)
    for face in scene(index):
        x1, y1, x2, y2 = (round(edge) for edge in _box(face))
        texture = np.random.default_rng(face.person).integers(0, 255, (8, 8, 3))
        tall, wide = max(y2 - y1, 0), max(x2 - x1, 0)
        rows, columns = np.arange(tall) * 8 // tall, np.arange(wide) * 8 // wide
        patch = texture[rows[:, None], columns[None, :]].astype(np.uint8)
        patch[:, :, 0] = face.person
        left, top = max(x1, 0), max(y1, 0)
        part = image[top : min(y2, height), left : min(x2, width)]
        part[:] = patch[top - y1 : top - y1 + part.shape[0], left - x1 : left - x1 + part.shape[1]]
    image[0, 0] = (index % 256, index // 256, 0)
    moment = datetime(2026, 11, 22, 12, 0, tzinfo=UTC) + timedelta(seconds=index / FPS)
    return Frame(image, moment, index / FPS, index, "door", alone)


def _box(face: FakeFace) -> tuple[float, float, float, float]:
    half = face.size / 2
    return face.x - half, face.y - half, face.x + half, face.y + half
