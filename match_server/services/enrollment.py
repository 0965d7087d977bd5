"""Enrollment: from a picture, or a template of elsewhere, to a reference in a collection."""

import numpy as np

from match_server.database import Database
from match_server.faces import FaceEngine
from match_server.schemas.persons import (
    Enrolled,
    Enrollment,
    TemplateCreate,
    TemplateWritten,
)
from match_server.schemas.search import PersonName
from match_server.search_index import SearchIndex
from match_server.services.adding import add_image, add_template, detection_of, embedded
from match_server.services.collections import policy_of
from match_server.services.files import FileStore
from match_server.services.lookup import collection_named, person_named
from match_server.services.ranking import rank_persons
from match_server.services.references import template_view
from match_server.services.vectors import require_model, template_of
from match_server.tables import Collection, Person
from models.picture import PictureLimits, read_picture
from models.types import Face
from shared.clock import Clock
from shared.errors import Conflict, QualityRefused
from shared.quality import Quality
from shared.template import Template as FaceTemplate


class Enroller:
    """Adds references to persons."""

    def __init__(
        self,
        database: Database,
        faces: FaceEngine,
        index: SearchIndex,
        files: FileStore,
        clock: Clock,
        limits: PictureLimits,
    ) -> None:
        self._database = database
        self._faces = faces
        self._index = index
        self._files = files
        self._clock = clock
        self._limits = limits

    def enroll(self, collection: str, person_id: str, wanted: Enrollment) -> Enrolled:
        """Enroll the largest face of a picture, or a template.

        Raises NoFace; QualityRefused (`reasons`) and Conflict (the lookalike) unless `force`;
        ModelMismatch; Conflict when the collection is full.
        """
        with self._database.read() as session:
            owner = collection_named(session, collection)
            person = person_named(session, owner, person_id)
        if wanted.image is None:
            template = template_of(wanted.template, wanted.model_id, owner)
            quality, detection = None, None
        else:
            require_model(self._faces.model_id, owner)
            face, count = self._face(wanted.image, owner)
            if not (wanted.force or face.quality.passed):
                raise _refusal(face.quality)
            template, quality, detection = embedded(face), face.quality, detection_of(face, count)
        if not wanted.force:
            self._refuse_lookalike(owner, person, template)
        with (
            self._files.kept("photos", wanted.image if wanted.store else None) as file,
            self._database.write() as session,
        ):
            # Read again under the write lock: the person may have been erased in the meantime.
            owner = collection_named(session, collection)
            person = person_named(session, owner, person_id)
            now, image = self._clock.now(), None
            if wanted.image is not None and quality is not None and detection is not None:
                image = add_image(session, person, wanted.image, file, quality, detection, now)
            row, seq = add_template(session, owner, person, template, image, quality, now)
            return Enrolled(
                image_id=None if image is None else image.id,
                template_id=row.id,
                quality=quality,
                detection=detection,
                url=None if file is None or image is None else f"/v1/images/{image.id}/content",
                seq=seq,
            )

    def add_template(
        self, collection: str, person_id: str, wanted: TemplateCreate
    ) -> TemplateWritten:
        """Enroll a vector from elsewhere as it is: no quality is known, no lookalike is sought."""
        with self._database.write() as session:
            owner = collection_named(session, collection)
            person = person_named(session, owner, person_id)
            template = template_of(wanted.template, wanted.model_id, owner)
            now = self._clock.now()
            row, seq = add_template(session, owner, person, template, None, None, now)
            return TemplateWritten(seq=seq, **dict(template_view(row, person.id)))

    def _face(self, picture: bytes, owner: Collection) -> tuple[Face, int]:
        image = read_picture(picture, self._limits)
        return self._faces.largest(image, gate=policy_of(owner).gate)

    def _refuse_lookalike(self, owner: Collection, person: Person, template: FaceTemplate) -> None:
        """Conflict when the face already belongs to another person of the collection.

        Two such enrollments at the very same moment both pass; the margin of the policy is what
        protects the search from lookalikes.
        """
        reached = self._index.caught_up(owner)
        probe = template.vector[np.newaxis]
        with self._database.read() as session:
            (ranked,) = rank_persons(session, reached.gallery, probe, 2, self._clock.now())
        others = [one for one in ranked if one.person_number != person.number]
        if others and others[0].similarity >= policy_of(owner).threshold:
            lookalike = PersonName(id=others[0].person_id, name=others[0].person_name)
            raise Conflict(
                f"this face already belongs to {lookalike.name!r} (similarity "
                f"{others[0].similarity:.2f}); pass force=1 to enroll it in spite of that",
                lookalike=lookalike.model_dump(),
                similarity=round(others[0].similarity, 4),
            )


def _refusal(quality: Quality) -> QualityRefused:
    failed = [factor for factor in quality.factors if not factor.passed]
    wrong = "; ".join(
        f"{factor.name} is {factor.value:.3g}, wanted {factor.low:.3g} to {factor.high:.3g}"
        for factor in failed
    )
    return QualityRefused(
        f"the picture is not good enough to enroll from: {wrong}. Take another, or pass force=1",
        reasons=[factor.name for factor in failed],
        factors=[factor.model_dump() for factor in failed],
    )
