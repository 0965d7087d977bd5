"""Detection, and verification (1:1): neither needs a gallery."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from match_server.schemas.search import (
    Detected,
    Embedded,
    EmbeddedFace,
    EmbedRequest,
    FaceView,
    Verified,
    VerifyRequest,
    VerifySide,
)
from match_server.services.collection_ref import collection_ref
from match_server.services.faces.detection import detection_of, embedded
from match_server.services.faces.face_engine import FaceEngine
from match_server.services.lookups import person_named
from match_server.services.policy.operating_point import OperatingPoint
from match_server.services.policy.verification_point import VerificationPoint
from match_server.services.recognition.context import Recognition
from match_server.services.recognition.stored_rows import rows_of_person
from match_server.services.recognition.template_input import read_vector
from models.types import Face
from shared.decision import as_cosine
from shared.errors import ModelMismatch, NoFace, PackError, Unusable
from shared.wire.template import encode_template

Rows = NDArray[np.float32]  # (n, dimension) unit rows


class Verification:
    """Detects and compares faces. It only reads."""

    def __init__(self, recognition: Recognition) -> None:
        self._database = recognition.database
        self._engines = recognition.engines
        self._vault = recognition.vault
        self._points = recognition.points

    def detect(self, picture: bytes, gate: str = "doorway") -> Detected:
        """All faces of a picture, largest first, their quality held to the ranges of a gate."""
        faces = self._engines.default.analyze(picture, gate=gate, embed=False)
        return Detected(faces=[_face_view(face) for face in faces])

    def embed(self, request: EmbedRequest) -> Embedded:
        """All faces of a picture with their templates. Raises NotFound, ModelMismatch."""
        model_id = self._engines.default.model_id
        if request.collection is not None:
            model_id = collection_ref(self._database, request.collection).model_id
        models = self._models_of(model_id)
        faces = models.analyze(request.image, gate=request.gate)
        return Embedded(
            model_id=model_id,
            dimension=models.dimension,
            faces=[
                EmbeddedFace(**_face_view(face).model_dump(), vector=_vector(face, request.numbers))
                for face in faces
            ],
        )

    def verify(self, request: VerifyRequest) -> Verified:
        """Whether both sides are the same person; a person stands for all of their templates."""
        model_id = self._model_of(request.pair)
        sides = [
            self._side(side, model_id, name)
            for side, name in zip(request.pair, ("first", "second"), strict=True)
        ]
        (first, first_model, _), (second, second_model, _) = sides
        if first_model != second_model:
            raise ModelMismatch(
                f"a template of {first_model!r} cannot be compared with one of {second_model!r}"
            )
        points = [point for _, _, point in sides if point is not None]
        verification = self._verification(first_model, points)
        threshold = request.threshold
        if threshold is None:
            threshold = verification.threshold(len(first) * len(second))
        products = first.astype(np.float64) @ second.astype(np.float64).T
        similarity = as_cosine(float(products.max()))
        return Verified(
            similarity=similarity,
            distance=1.0 - similarity,
            match_probability=verification.same_person(similarity),
            decision="match" if similarity >= threshold else "no_match",
            threshold=threshold,
        )

    def _verification(self, model_id: str, points: Sequence[OperatingPoint]) -> VerificationPoint:
        """The operating point for two templates of this model.

        `points` are those of the persons' collections. The highest threshold of their policies
        decides; else a calibration, a collection's own before the model's reference.
        """
        references = self._points.references
        thresholds = [point.policy.threshold for point in points]
        calibrations = [point.calibration for point in points if point.calibration is not None]
        return VerificationPoint(
            fixed=max((each for each in thresholds if each is not None), default=None),
            calibration=calibrations[0] if calibrations else references.calibration(model_id),
            uncalibrated=references.threshold(model_id),
        )

    def _model_of(self, pair: Sequence[VerifySide]) -> str:
        """The model of the side that has one; of two pictures, this server's own."""
        for side in pair:
            if side.model_id is not None:
                return side.model_id
            if side.collection is not None:
                return collection_ref(self._database, side.collection).model_id
        return self._engines.default.model_id

    def _models_of(self, model_id: str) -> FaceEngine:
        """Raises ModelMismatch when no pack here has this model."""
        try:
            return self._engines.of_model(model_id)
        except PackError as error:
            raise ModelMismatch(f"no template of the picture: {error.message}") from None

    def _side(
        self, side: VerifySide, model_id: str, name: str
    ) -> tuple[Rows, str, OperatingPoint | None]:
        """The rows of one side, their model, and the operating point of the person's collection.

        A picture gets a template of `model_id`. Raises NoFace, which names the side.
        """
        if side.image is not None:
            models = self._models_of(model_id)
            try:
                face, _ = models.largest(side.image, gate="doorway")
            except NoFace as error:
                raise NoFace(
                    f"{name} picture: {error.message}", reasons=["no_face"], side=name
                ) from None
            return embedded(face).vector[np.newaxis], model_id, None
        if side.template is not None and side.model_id is not None:
            template = read_vector(side.template, side.model_id)
            return template.vector[np.newaxis], side.model_id, None
        with self._database.read() as session:
            collection = collection_ref(session, side.collection or "")
            person = person_named(session, collection, side.person or "")
            rows = rows_of_person(
                session, collection, person, self._vault.cipher(session, collection)
            )
        if not len(rows):
            raise Unusable(f"person {person.id!r} has no template", reasons=["no_template"])
        return rows, collection.model_id, self._points.of(collection)


def _vector(face: Face, numbers: bool) -> str | list[float]:
    """The template as clients send it: stored in float16, so also as numbers."""
    template = embedded(face)
    if not numbers:
        return encode_template(template)
    values: list[float] = template.vector.astype(np.float16).tolist()
    return values


def _face_view(face: Face) -> FaceView:
    detection = detection_of(face, 1)
    return FaceView(
        box=detection.box,
        score=detection.score,
        landmarks=detection.landmarks,
        pose=face.pose,
        quality=face.quality,
        liveness=face.liveness,
    )
