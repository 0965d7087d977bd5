"""The models of a pack as one object: detect, locate, align, assess, embed."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from models.alignment import ARCFACE, align, alignable, similarity_transforms
from models.detectors.ultralight import UltraLight
from models.face_check import certainty
from models.landmarks import five_of_68
from models.loading import Parts, load_parts
from models.occlusion.regions import outside
from models.quality.eyes import LEAST_INTEROCULAR
from models.quality.gates import DOORWAY, Gate
from models.quality.pose import poses_from_points
from models.quality.score import assess, is_lower_face_covered
from models.types import BgrImage, Detections, Face, LocatedFace, Shapes
from shared.wire.quality import Pose, Quality
from shared.wire.template import Template

# Measured on 43 faces cropped at their boxes: without a margin, 15 templates were unlike the whole
# picture's (cosine below 0.5); with a gray one of half the picture on each side, none.
_MARGIN = 0.5
_FILLS = 0.4  # of the picture's width or height: from here on a box may be part of a larger face
# Of 1,300 faces cropped at their boxes one has such a score in up to so much of the picture. Where
# a face has, the margin changes nothing: 4.63 % of 2,590 pairs missed, 4.52 % without (FMR 1e-4).
_FILLS_MOST, _WHOLE = 0.6, 0.999
_SEVERAL = 3  # faces: there may be more, too small for a look at the whole
_SURE = 0.9  # of the detector's score: near faces have 0.99 and more, masked ones 0.93
_SMALL = 0.1  # of the picture's width: the plain look finds faces down to a twentieth

_CLEAR_SCORE = 1.0  # what the light detector gives a clear face
_CLEAR_ELSEWHERE = 0.75  # CenterFace, YuNet and SCRFD give 0.75 to 0.95


class FaceModels:
    """The loaded models of one pack. Several threads may call all methods."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @property
    def model_id(self) -> str:
        """The id of the embedder: it is stored with every template and compared first."""
        return self._parts.embedder.model_id

    @property
    def dimension(self) -> int:
        return self._parts.embedder.dimension

    def detect(
        self, image: BgrImage, *, retry_padded: bool = False, closer: bool = False
    ) -> Detections:
        """Returns the faces of `image`, best score first, in its pixels.

        A `closer` look finds far faces too, and costs several times as much.

        With `retry_padded`, a picture in which no face is found, or one that may fill it, is
        searched again with a margin around it: of a tight crop, detectors find nothing or mere
        parts. It costs a second run, so video does without.
        """
        if closer:
            return self._parts.closer.detect(image)
        detections = self._parts.detector.detect(image)
        if retry_padded and _is_tight(image, detections):
            return self._padded(image, detections)
        return detections

    def _padded(self, image: BgrImage, detections: Detections) -> Detections:
        """Returns the faces of a tight crop, or `detections` if a margin around it shows none."""
        height, width = image.shape[:2]
        down, right = round(height * _MARGIN), round(width * _MARGIN)
        padded: BgrImage = cv2.copyMakeBorder(  # type: ignore[assignment]
            image, down, down, right, right, cv2.BORDER_CONSTANT, value=(127, 127, 127)
        )
        again = self._parts.detector.detect(padded).moved(-right, -down)
        return again if len(again) > 0 else detections

    def search(self, image: BgrImage) -> Detections:
        """Returns the faces of a still: as `detect`, with a closer look if the picture may need it.

        It may need it if `detect` finds no face, several faces, or small faces only. Most pictures
        show one near face and need no closer look.
        """
        plain = self._parts.detector.detect(image)
        detections = self._padded(image, plain) if _is_tight(image, plain) else plain
        if not _may_be_crowd(image, detections, fills=len(plain) == 0):
            return detections
        closer = self._parts.crowd.detect(image)
        return closer if len(closer) > len(detections) else detections

    def locate(self, image: BgrImage, detections: Detections) -> Shapes:
        """Returns the points of the faces in `detections`: five, and 68 if the pack has them."""
        if self._parts.landmarks is None:
            if detections.points5 is None:
                raise ValueError("neither the detector nor the pack gives points")
            return Shapes(detections.points5, None)
        points68 = self._parts.landmarks.locate(image, detections.boxes)
        return Shapes(five_of_68(points68), points68)

    def head_poses(self, image: BgrImage, boxes: NDArray[np.float32]) -> list[Pose] | None:
        """Returns poses by the pack's pose model; None if it has none."""
        return None if self._parts.pose is None else self._parts.pose.estimate(image, boxes)

    def align(self, image: BgrImage, points5: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Returns chips (n, 112, 112, 3) BGR for points (n, 5, 2) in pixels of `image`.

        Every pack's quality is measured on them; `embed` may take others.
        """
        return align(image, points5)

    @property
    def chip_size(self) -> tuple[int, int]:
        """Width and height of the chips for `embed`, in pixels."""
        return self._parts.embedder.alignment.size

    def embedding_chips(
        self,
        image: BgrImage,
        points5: NDArray[np.float32],
        chips: NDArray[np.uint8],
        qualities: Sequence[Quality],
    ) -> NDArray[np.uint8]:
        """Returns the chips for `embed`, of faces of which `align` made `chips`.

        They are `chips` themselves, unless the pack has a reference of its own. Faces whose mouth
        and nose are covered, by `qualities`, are cut again by the eyes alone.
        """
        alignment = self._parts.embedder.alignment
        cut = chips if alignment is ARCFACE else align(image, points5, alignment)
        covered = [row for row, each in enumerate(qualities) if is_lower_face_covered(each)]
        if covered:
            cut = cut.copy()
            cut[covered] = align(image, points5[covered], alignment, eyes_only=True)
        return cut

    def liveness(self, image: BgrImage, boxes: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Returns scores (n,) 0..1; None if the pack has no such model."""
        return None if self._parts.liveness is None else self._parts.liveness.scores(image, boxes)

    def assess(
        self,
        image: BgrImage,
        detections: Detections,
        shapes: Shapes,
        *,
        poses: list[Pose] | None = None,
        chips: NDArray[np.uint8] | None = None,
        gate: Gate = DOORWAY,
        still: bool = False,
        occlusion: bool = False,
    ) -> list[Quality]:
        """Returns the quality of each face, judged by `gate`.

        Without `poses` they are estimated from the points, which is cheap enough for every frame
        of a video; without `chips` they are cut here. A `still` has its eyes looked at as well.
        With `occlusion` the chips are looked at for what covers the faces, which costs a small
        network's run: for the shots that matter, not for every frame. Where chips are given, of
        `image` only the size counts, except for a still.
        """
        if poses is None:
            poses = poses_from_points(shapes.points5)
        if chips is None:
            chips = align(image, shapes.points5)
        eyes = self._eyes_open(image, shapes) if still else None
        covered = self._occlusion(image, shapes, chips) if occlusion else None
        return assess(
            image, detections, shapes, poses, chips, gate, eyes_open=eyes, occlusion=covered
        )

    def _occlusion(
        self, image: BgrImage, shapes: Shapes, chips: NDArray[np.uint8]
    ) -> dict[str, NDArray[np.float32]]:
        frame = (image.shape[1], image.shape[0])
        beyond = outside(similarity_transforms(shapes.points5), frame)
        return self._parts.occlusion.factors(chips, beyond)

    def _eyes_open(self, image: BgrImage, shapes: Shapes) -> NDArray[np.float32] | None:
        if self._parts.eyes is None or shapes.points68 is None:
            return None
        scores = self._parts.eyes.open_scores(image, shapes.points68)
        apart = np.linalg.norm(shapes.points5[:, 1] - shapes.points5[:, 0], axis=1)
        return np.where(apart >= LEAST_INTEROCULAR, scores, np.float32(np.nan))

    def embed(self, chips: NDArray[np.uint8]) -> list[Template]:
        """Returns the templates of chips that `embedding_chips` made."""
        return self._parts.embedder.embed(chips)

    def certainty(self, image: BgrImage, face: LocatedFace) -> float:
        """Returns the certainty, 0 to 1, that a detection is a face. It takes about 15 ms."""
        detector = self._parts.detector
        return certainty(
            detector,
            self._parts.landmarks,
            image,
            face.box,
            face.score,
            face.points5,
            clear_score=_CLEAR_SCORE if isinstance(detector, UltraLight) else _CLEAR_ELSEWHERE,
        )

    def find(self, image: BgrImage) -> list[LocatedFace]:
        """Returns the faces of a still that can be aligned, best detection first."""
        detections = self.search(image)
        if len(detections) == 0:
            return []
        detections, shapes = alignable_faces(detections, self.locate(image, detections))
        return [
            LocatedFace(
                box=detections.boxes[row],
                score=float(detections.scores[row]),
                points5=shapes.points5[row],
                points68=None if shapes.points68 is None else shapes.points68[row],
            )
            for row in range(len(detections))
        ]

    def analyze(
        self,
        image: BgrImage,
        faces: Sequence[LocatedFace] | None = None,
        *,
        gate: Gate = DOORWAY,
        embed: bool = True,
        thorough: bool = True,
    ) -> list[Face]:
        """Returns all values of these faces of one picture, in their order; by default of all.

        Unless `thorough`, poses are estimated from the points, and liveness is left out: each takes
        a model's run.
        """
        faces = self.find(image) if faces is None else faces
        if not faces:
            return []
        detections, shapes = _as_arrays(faces)
        chips = self.align(image, shapes.points5)
        poses = self.head_poses(image, detections.boxes) if thorough else None
        poses = poses or poses_from_points(shapes.points5)
        live = self.liveness(image, detections.boxes) if thorough else None
        qualities = self.assess(
            image,
            detections,
            shapes,
            poses=poses,
            chips=chips,
            gate=gate,
            still=True,
            occlusion=True,
        )
        templates: list[Template | None] = [None] * len(chips)
        if embed:
            cut = self.embedding_chips(image, shapes.points5, chips, qualities)
            templates = [*self.embed(cut)]
        return [
            Face(
                box=face.box,
                score=face.score,
                points5=face.points5,
                points68=face.points68,
                pose=poses[row],
                quality=qualities[row],
                liveness=None if live is None else float(live[row]),
                chip=chips[row],
                template=templates[row],
            )
            for row, face in enumerate(faces)
        ]


def _as_arrays(faces: Sequence[LocatedFace]) -> tuple[Detections, Shapes]:
    points68 = [face.points68 for face in faces if face.points68 is not None]
    return (
        Detections(
            np.stack([face.box for face in faces]),
            np.array([face.score for face in faces], np.float32),
        ),
        Shapes(
            np.stack([face.points5 for face in faces]), np.stack(points68) if points68 else None
        ),
    )


def _may_be_crowd(image: BgrImage, detections: Detections, *, fills: bool) -> bool:
    """Returns whether there may be more faces than those detected.

    A crowd as a whole may look like a face to the detector, but its score is low. `fills`: the
    faces were detected with a margin only, so that a real face fills the picture.
    """
    if len(detections) == 0 or len(detections) >= _SEVERAL:
        return True
    widths = detections.boxes[:, 2] - detections.boxes[:, 0]
    widest = int(widths.argmax())
    small = widths[widest] < (_FILLS if fills else _SMALL) * image.shape[1]
    return bool(small or detections.scores[widest] < _SURE)


def alignable_faces(detections: Detections, shapes: Shapes) -> tuple[Detections, Shapes]:
    """Returns the faces whose points can be aligned, so that others do not fail with them."""
    usable = alignable(shapes.points5)
    if usable.all():
        return detections, shapes
    rows = np.flatnonzero(usable)
    return detections.take(rows), shapes.take(rows)


def _is_tight(image: BgrImage, detections: Detections) -> bool:
    """Returns whether the detections may be parts of faces that fill the picture."""
    if len(detections) == 0:
        return True
    frame = np.array([image.shape[1], image.shape[0]])
    fills = float(((detections.boxes[:, 2:] - detections.boxes[:, :2]) / frame).max())
    if fills <= _FILLS:
        return False
    return len(detections) > 1 or fills > _FILLS_MOST or float(detections.scores[0]) < _WHOLE


def open_models(
    pack: str = "compact",
    *,
    detector: str | None = None,
    closer: str | None = None,
    threads: int = 1,
    cache: Path | None = None,
) -> FaceModels:
    """Loads an installed pack, with the detector of the pack `detector` if it is set.

    `closer` names the pack whose detector takes closer looks; without it, the first one takes them
    in tiles. PackError when a pack is not installed or lacks what is needed; never fetches
    anything.
    """
    return FaceModels(
        load_parts(pack, detector=detector, closer=closer, threads=threads, cache=cache)
    )
