"""Who is this? Search by picture, by template or by an enrolled template; and verification."""

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from match_server.database import Database
from match_server.faces import FaceEngine
from match_server.schemas.collections import Policy
from match_server.schemas.persons import Detection
from match_server.schemas.search import (
    CandidateView,
    Detected,
    FaceView,
    PersonName,
    ProbeAnswer,
    SearchAnswer,
    SearchRequest,
    Verified,
    VerifyRequest,
    VerifySide,
)
from match_server.search_index import SearchIndex, stored_rows
from match_server.services.collections import policy_of
from match_server.services.enrollment import detection_of
from match_server.services.lookup import collection_named, person_named
from match_server.services.policy import Candidate, decide
from match_server.services.ranking import rank_persons
from match_server.services.vectors import read_vector, require_model, template_of
from match_server.tables import Collection, Template
from models.picture import PictureLimits, read_picture
from models.types import Face
from shared.clock import Clock
from shared.errors import ModelMismatch, NoFace, NotFound, Unusable
from shared.quality import Quality

_SIMILARITY_DECIMALS = 6

Rows = NDArray[np.float32]  # (n, dimension) unit rows


class Identifier:
    """The read side of recognition: nothing that it does is stored."""

    def __init__(
        self,
        database: Database,
        faces: FaceEngine,
        index: SearchIndex,
        clock: Clock,
        limits: PictureLimits,
    ) -> None:
        self._database = database
        self._faces = faces
        self._index = index
        self._clock = clock
        self._limits = limits

    def detect(self, picture: bytes) -> Detected:
        """All faces of a picture, largest first."""
        image = read_picture(picture, self._limits)
        faces = self._faces.analyze(image, gate="doorway", embed=False)
        return Detected(faces=[_face_view(face) for face in faces])

    def search(self, collection: str, wanted: SearchRequest) -> SearchAnswer:
        """The candidate list and the decision for each probe of the request.

        Raises NoFace for a picture without a face, ModelMismatch for templates of another model.
        """
        started_s = time.perf_counter()
        with self._database.read() as session:
            owner = collection_named(session, collection)
        rows, seen = self._probes(owner, wanted)
        reached = self._index.caught_up(owner, wanted.min_seq)
        with self._database.read() as session:
            lists = rank_persons(
                session, reached.gallery, rows, max(wanted.limit, 2), self._clock.now()
            )
        answers = [
            self._answer(owner, wanted, candidates, detection, quality)
            for candidates, (detection, quality) in zip(lists, seen, strict=True)
        ]
        return SearchAnswer(
            probes=answers,
            searched=len(reached.gallery),
            seq=reached.seq,
            took_ms=round((time.perf_counter() - started_s) * 1000, 2),
        )

    def verify(self, wanted: VerifyRequest) -> Verified:
        """Whether two are the same person; a person stands for all of their templates."""
        threshold = wanted.threshold
        sides: list[tuple[Rows, str]] = []
        for side in wanted.pair:
            rows, model_id, policy_threshold = self._side(side)
            sides.append((rows, model_id))
            threshold = threshold if threshold is not None else policy_threshold
        (first, first_model), (second, second_model) = sides
        if first_model != second_model:
            raise ModelMismatch(
                f"a template of {first_model!r} cannot be compared with one of {second_model!r}"
            )
        threshold = Policy().threshold if threshold is None else threshold
        similarity = float((first.astype(np.float64) @ second.astype(np.float64).T).max())
        return Verified(
            similarity=round(similarity, _SIMILARITY_DECIMALS),
            distance=round(1.0 - similarity, _SIMILARITY_DECIMALS),
            decision="match" if similarity >= threshold else "no_match",
            threshold=threshold,
        )

    def _probes(
        self, owner: Collection, wanted: SearchRequest
    ) -> tuple[Rows, list[tuple[Detection | None, Quality | None]]]:
        if wanted.image is not None:
            require_model(self._faces.model_id, owner)
            faces, count = self._faces_of(wanted.image, every=wanted.detect_all)
            seen: list[tuple[Detection | None, Quality | None]] = [
                (detection_of(face, count), face.quality) for face in faces
            ]
            return _rows(faces), seen
        if wanted.templates is not None:
            templates = [template_of(one.vector, one.model_id, owner) for one in wanted.templates]
            return np.stack([one.vector for one in templates]), [(None, None)] * len(templates)
        return self._enrolled(owner, wanted.template_id), [(None, None)]

    def _faces_of(self, picture: bytes, *, every: bool) -> tuple[list[Face], int]:
        image = read_picture(picture, self._limits)
        if not every:
            face, count = self._faces.largest(image, gate="doorway")
            return [face], count
        faces = self._faces.analyze(image, gate="doorway")
        if not faces:
            raise NoFace("no face was found in the picture", reasons=["no_face"])
        return faces, len(faces)

    def _enrolled(self, owner: Collection, template_id: str | None) -> Rows:
        with self._database.read() as session:
            vector = session.scalars(
                select(Template.vector).where(
                    Template.id == template_id, Template.collection_number == owner.number
                )
            ).one_or_none()
        if vector is None:
            raise NotFound(f"there is no template {template_id!r} in collection {owner.name!r}")
        return stored_rows([vector], owner.dimension).astype(np.float32)

    def _answer(
        self,
        owner: Collection,
        wanted: SearchRequest,
        candidates: Sequence[Candidate],
        detection: Detection | None,
        quality: Quality | None,
    ) -> ProbeAnswer:
        policy = policy_of(owner)
        threshold = policy.threshold if wanted.threshold is None else wanted.threshold
        decision = decide(candidates, threshold, policy.margin)
        listed = candidates[: wanted.limit]
        if wanted.threshold is not None:
            listed = [one for one in listed if one.similarity >= threshold]
        return ProbeAnswer(
            detection=detection,
            quality=quality,
            candidates=candidate_views(listed),
            decision=decision,
            person=_name(candidates[0]) if decision == "identified" else None,
        )

    def _side(self, side: VerifySide) -> tuple[Rows, str, float | None]:
        """One side of a verification: its rows, their model, and its collection's threshold."""
        if side.image is not None:
            faces, _ = self._faces_of(side.image, every=False)
            return _rows(faces), self._faces.model_id, None
        if side.template is not None and side.model_id is not None:
            template = read_vector(side.template, side.model_id)
            return template.vector[np.newaxis], side.model_id, None
        with self._database.read() as session:
            owner = collection_named(session, side.collection or "")
            person = person_named(session, owner, side.person or "")
            vectors = session.scalars(
                select(Template.vector).where(Template.person_number == person.number)
            ).all()
        if not vectors:
            raise Unusable(f"person {person.id!r} has no template", reasons=["no_template"])
        rows = stored_rows(vectors, owner.dimension).astype(np.float32)
        return rows, owner.model_id, policy_of(owner).threshold


def candidate_views(candidates: Sequence[Candidate]) -> list[CandidateView]:
    """A candidate list as clients see it, ranked from 1."""
    return [
        candidate_view(_name(one), one.template_id, one.similarity, rank)
        for rank, one in enumerate(candidates, start=1)
    ]


def candidate_view(
    person: PersonName, template_id: str, similarity: float, rank: int
) -> CandidateView:
    return CandidateView(
        person=person,
        template_id=template_id,
        similarity=round(similarity, _SIMILARITY_DECIMALS),
        distance=round(1.0 - similarity, _SIMILARITY_DECIMALS),
        rank=rank,
    )


def _name(candidate: Candidate) -> PersonName:
    return PersonName(id=candidate.person_id, name=candidate.person_name)


def _rows(faces: Sequence[Face]) -> Rows:
    """Templates of faces, through float16 as the enrolled ones are."""
    vectors = [face.template.vector for face in faces if face.template is not None]
    if len(vectors) != len(faces):
        raise RuntimeError("the face models answered a face without a template")
    return np.stack(vectors)


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
