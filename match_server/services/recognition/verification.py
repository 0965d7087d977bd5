"""Detection and verification: what needs no gallery."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from match_server.db.database import Database
from match_server.db.tables import Template
from match_server.schemas.search import (
    Detected,
    FaceView,
    Verified,
    VerifyRequest,
    VerifySide,
)
from match_server.services.collection_ref import scope_named
from match_server.services.encryption.vault import Vault
from match_server.services.galleries.galleries import stored_rows
from match_server.services.lookups import collection_named, person_named
from match_server.services.recognition.detection import detection_of, embedded
from match_server.services.recognition.engines import Engines
from match_server.services.recognition.operating_point import OperatingPoint, OperatingPoints
from match_server.services.recognition.template_input import read_vector
from match_server.services.recognition.verification_point import VerificationPoint
from models.types import Face
from shared.decision import as_cosine
from shared.errors import ModelMismatch, NoFace, PackError, Unusable

Rows = NDArray[np.float32]  # (n, dimension) unit rows


class Verification:
    """The read side of recognition: nothing that it does is stored."""

    def __init__(
        self,
        database: Database,
        engines: Engines,
        vault: Vault,
        points: OperatingPoints,
    ) -> None:
        self._vault = vault
        self._points = points
        self._database = database
        self._engines = engines

    def detect(self, picture: bytes, gate: str = "doorway") -> Detected:
        """All faces of a picture, largest first, their quality held to the ranges of a gate."""
        faces = self._engines.default.analyze(picture, gate=gate, embed=False)
        return Detected(faces=[_face_view(face) for face in faces])

    def verify(self, wanted: VerifyRequest) -> Verified:
        """Whether two are the same person; a person stands for all of their templates."""
        model_id = self._model_of(wanted.pair)
        sides = [
            self._side(side, model_id, name)
            for side, name in zip(wanted.pair, ("first", "second"), strict=True)
        ]
        (first, first_model, _), (second, second_model, _) = sides
        if first_model != second_model:
            raise ModelMismatch(
                f"a template of {first_model!r} cannot be compared with one of {second_model!r}"
            )
        points = [point for _, _, point in sides if point is not None]
        verification = self._verification(first_model, points)
        threshold = wanted.threshold
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
        """By what two of this model are compared; `points` are those of the persons' collections.

        The highest threshold that a policy gives counts, else a calibration, a collection's own
        before the model's reference.
        """
        given = [point.policy.threshold for point in points]
        references = self._points.references
        calibrations = [point.calibration for point in points]
        return VerificationPoint(
            fixed=max((one for one in given if one is not None), default=None),
            calibration=next(
                (one for one in calibrations if one is not None), references.calibration(model_id)
            ),
            uncalibrated=references.threshold(model_id),
        )

    def _model_of(self, pair: Sequence[VerifySide]) -> str:
        """The model of the side that has one; of two pictures, this server's own."""
        for side in pair:
            if side.model_id is not None:
                return side.model_id
            if side.collection is not None:
                return scope_named(self._database, side.collection).model_id
        return self._engines.default.model_id

    def _side(
        self, side: VerifySide, model_id: str, name: str
    ) -> tuple[Rows, str, OperatingPoint | None]:
        """One side of a verification: its rows, their model, and its collection's point.

        Of a picture a template of `model_id` is made. Raises NoFace, which names the side.
        """
        if side.image is not None:
            try:
                models = self._engines.of_model(model_id)
            except PackError as error:
                raise ModelMismatch(f"no template of the picture: {error.message}") from None
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
            owner = collection_named(session, side.collection or "")
            scope = scope_named(session, owner.name)
            person = person_named(session, owner, side.person or "")
            stored = session.execute(
                select(Template.id, Template.vector).where(Template.person_number == person.number)
            ).all()
            cipher = self._vault.cipher(session, owner)
            vectors = cipher.open_vectors(owner.model_id, [(row.id, row.vector) for row in stored])
        if not vectors:
            raise Unusable(f"person {person.id!r} has no template", reasons=["no_template"])
        rows = stored_rows(vectors, owner.dimension).astype(np.float32)
        return rows, owner.model_id, self._points.of(scope)


def _face_view(face: Face) -> FaceView:
    found = detection_of(face, 1)
    return FaceView(
        box=found.box,
        score=found.score,
        landmarks=found.landmarks,
        pose=face.pose,
        quality=face.quality,
        liveness=face.liveness,
    )
