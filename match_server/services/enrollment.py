"""Enrollment: from a picture, or a template of elsewhere, to a reference in a collection."""

import io

import numpy as np
from PIL import Image as Pillow
from sqlalchemy import update
from sqlalchemy.orm import Session

from match_server.database import Database
from match_server.faces import FaceEngine
from match_server.schemas.persons import (
    Detection,
    Enrolled,
    Enrollment,
    TemplateCreate,
    TemplateWritten,
)
from match_server.schemas.search import PersonName
from match_server.search_index import SearchIndex
from match_server.services.changes import record
from match_server.services.collections import policy_of
from match_server.services.files import FileStore
from match_server.services.lookup import collection_named, person_named
from match_server.services.ranking import rank_persons
from match_server.services.references import template_view
from match_server.services.vectors import require_model, template_of
from match_server.tables import Collection, Image, Person, Template
from models.picture import PictureLimits, read_picture
from models.types import Face
from shared.clock import Clock
from shared.errors import Conflict, QualityRefused
from shared.ids import new_id
from shared.quality import Quality
from shared.template import Template as FaceTemplate

_PIXEL_DECIMALS = 1


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
            template, quality, detection = _embedded(face), face.quality, detection_of(face, count)
        if not wanted.force:
            self._refuse_lookalike(owner, person, template)
        with (
            self._files.kept("photos", wanted.image if wanted.store else None) as file,
            self._database.write() as session,
        ):
            # Read again under the write lock: the person may have been erased in the meantime.
            owner = collection_named(session, collection)
            person = person_named(session, owner, person_id)
            image = self._add_image(session, person, wanted.image, file, quality, detection)
            row, seq = self._add_template(session, owner, person, template, image, quality)
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
            row, seq = self._add_template(session, owner, person, template, None, None)
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

    def _add_image(
        self,
        session: Session,
        person: Person,
        picture: bytes | None,
        file: str | None,
        quality: Quality | None,
        detection: Detection | None,
    ) -> Image | None:
        if picture is None or quality is None or detection is None:
            return None
        image = Image(
            id=new_id(),
            person_number=person.number,
            file=file,
            media_type=_media_type(picture),
            size_bytes=len(picture),
            quality=quality.model_dump(mode="json"),
            detection=detection.model_dump(mode="json"),
            created_at=self._clock.now(),
        )
        session.add(image)
        return image

    def _add_template(
        self,
        session: Session,
        owner: Collection,
        person: Person,
        template: FaceTemplate,
        image: Image | None,
        quality: Quality | None,
    ) -> tuple[Template, int]:
        _take_room(session, owner)
        row = Template(
            id=new_id(),
            collection_number=owner.number,
            person_number=person.number,
            image_id=None if image is None else image.id,
            model_id=template.model_id,
            vector=template.vector.astype("<f2").tobytes(),
            quality=None if quality is None else quality.score,
            created_at=self._clock.now(),
        )
        session.add(row)
        session.flush()
        seq = record(
            session,
            owner.number,
            "template_added",
            row.id,
            row.created_at,
            template_number=row.number,
        )
        return row, seq


def detection_of(face: Face, count: int) -> Detection:
    """Where a face was, rounded to what the detector can know."""
    points = face.points5 if face.points68 is None else face.points68
    x1, y1, x2, y2 = (round(float(value), _PIXEL_DECIMALS) for value in face.box)
    return Detection(
        box=(x1, y1, x2, y2),
        score=min(max(float(face.score), 0.0), 1.0),
        landmarks=[
            (round(float(x), _PIXEL_DECIMALS), round(float(y), _PIXEL_DECIMALS)) for x, y in points
        ],
        pose=face.pose,
        liveness=face.liveness,
        faces=count,
    )


def _take_room(session: Session, owner: Collection) -> None:
    taken = session.execute(
        update(Collection)
        .where(
            Collection.number == owner.number,
            Collection.max_templates.is_(None)
            | (Collection.template_count < Collection.max_templates),
        )
        .values(template_count=Collection.template_count + 1)
        .returning(Collection.number)
    ).all()
    if not taken:
        raise Conflict(
            f"collection {owner.name!r} is full: it may hold {owner.max_templates} templates",
            max_templates=owner.max_templates,
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


def _embedded(face: Face) -> FaceTemplate:
    if face.template is None:
        raise RuntimeError("the face models answered a face without a template")
    return face.template


def _media_type(picture: bytes) -> str:
    """The kind of a picture that has already been read, by its own header."""
    with Pillow.open(io.BytesIO(picture)) as opened:
        return opened.get_format_mimetype() or "application/octet-stream"
