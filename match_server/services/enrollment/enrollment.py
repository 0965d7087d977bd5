"""Enrollment: a picture, or a template from another system, becomes a reference of a person."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from match_server.db.tables import Collection, Image, Person, Template
from match_server.schemas.collections import stored_policy
from match_server.schemas.persons import (
    Detection,
    Enrolled,
    Enrollment,
    PersonCreate,
    PersonName,
    TemplateCreate,
    TemplateWritten,
)
from match_server.services.change_feed import position
from match_server.services.encryption.vault import Cipher
from match_server.services.enrollment.advice import advice
from match_server.services.enrollment.consistency import Rows, outliers, unlike_limit
from match_server.services.enrollment.persons import add_person
from match_server.services.enrollment.references import (
    reference_count,
    template_view,
)
from match_server.services.enrollment.rows import add_image, add_template
from match_server.services.faces.detection import detection_of_chosen, embedded
from match_server.services.faces.face_choice import LEAST_OVERLAP, FaceChoice, overlap
from match_server.services.lookups import collection_named, person_named, storage_named
from match_server.services.recognition.context import Recognition
from match_server.services.recognition.person_cache import stored_persons
from match_server.services.recognition.ranking import rank_persons
from match_server.services.recognition.stored_rows import rows_of_person
from match_server.services.recognition.template_input import template_of
from match_server.services.storage.files import FileStore
from shared.errors import Conflict, ModelMismatch, QualityRefused, UnlikePerson
from shared.wire.quality import Quality
from shared.wire.template import Template as FaceTemplate


@dataclass(frozen=True, slots=True)
class PersonKey:
    """A person named by a folder or a line of a file; a missing person is created.

    `key` is compared with the ids of the collection and, with `by_name`, with the names.
    """

    key: str
    by_name: bool
    new: PersonCreate

    def find(self, session: Session, collection: Collection) -> Person | None:
        """The person; None when there is none. Raises Conflict when several have the name."""
        persons_of_collection = select(Person).where(Person.collection_number == collection.number)
        by_id = session.scalars(persons_of_collection.where(Person.id == self.key)).one_or_none()
        if by_id is not None or not self.by_name:
            return by_id
        persons = session.scalars(
            persons_of_collection.where(Person.name == self.new.name).limit(2)
        ).all()
        if len(persons) > 1:
            raise Conflict(
                f"several persons are named {self.new.name!r}: give the id of the one that is meant"
            )
        return persons[0] if persons else None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A reference before it is compared with other persons and stored."""

    who: str | PersonKey
    request: Enrollment
    collection: Collection  # as it was read
    person: PersonName | None  # None: to be created
    references: Rows  # that the person has
    template: FaceTemplate
    quality: Quality | None = None
    detection: Detection | None = None


class Enroller:
    """Adds references to persons."""

    def __init__(self, recognition: Recognition, files: FileStore) -> None:
        self._database = recognition.database
        self._engines = recognition.engines
        self._galleries = recognition.galleries
        self._vault = recognition.vault
        self._points = recognition.points
        self._clock = recognition.clock
        self._files = files

    def enroll(self, collection: str, who: str | PersonKey, request: Enrollment) -> Enrolled:
        """Enroll a face of a picture, or a template, for a person (by id, or `PersonKey`).

        A file that the person was enrolled from before adds nothing. Raises NoFace, QualityRefused
        (`reasons`), UnlikePerson and Conflict (the lookalike) unless `force`; SeveralFaces when the
        request does not choose one of several faces; ModelMismatch; Conflict when the collection is
        full.
        """
        try:
            return self._enroll(collection, who, request)
        except ModelMismatch:
            if request.image is None:
                raise
            return self._enroll(collection, who, request)  # the collection has just got new models

    def _enroll(self, collection: str, who: str | PersonKey, request: Enrollment) -> Enrolled:
        prepared = self.prepare(collection, who, request)
        if isinstance(prepared, Enrolled):
            return prepared
        (unlike,) = self.compared([prepared])
        if unlike is not None:
            raise unlike
        return self.write(prepared)

    def prepare(
        self, collection_name: str, who: str | PersonKey, request: Enrollment
    ) -> Prepared | Enrolled:
        """Check and embed a picture; `Enrolled` for a file that was enrolled for the person before.

        Raises as `enroll`, except for the comparisons with persons.
        """
        with self._database.read() as session:
            collection = collection_named(session, collection_name)
            person = _person(session, collection, who)
            cipher = self._vault.cipher(session, collection)
            known = self._known(session, collection, person, request, cipher)
            if request.storage is not None:
                storage_named(session, request.storage)
            references = rows_of_person(session, collection, person, cipher)
        if known is not None:
            return known
        name = None if person is None else PersonName(id=person.id, name=person.name)
        if request.image is None:
            template = template_of(request.template, request.model_id, collection)
            return Prepared(who, request, collection, name, references, template)
        choice = FaceChoice(request.face, request.box)
        engine = self._engines.of(collection)
        chosen = engine.chosen(
            request.image, choice, gate=stored_policy(collection.policy).gate, force=request.force
        )
        if not (request.force or chosen.face.quality.passed):
            raise _refusal(chosen.face.quality)
        template = embedded(chosen.face)
        quality, detection = chosen.face.quality, detection_of_chosen(chosen)
        return Prepared(who, request, collection, name, references, template, quality, detection)

    def compared(self, pictures: Sequence[Prepared]) -> list[UnlikePerson | None]:
        """For each new picture of one person the error, None where it is like the others.

        Pictures with `force` are not compared.
        """
        compared = [picture for picture in pictures if not picture.request.force]
        if not compared:
            return [None] * len(pictures)
        first = compared[0]
        point = self._points.named(self._database, first.collection.name)
        limit = unlike_limit(point)
        rows = np.stack([picture.template.vector for picture in compared])
        named = first.who.new.name if isinstance(first.who, PersonKey) else first.who
        name = named if first.person is None else first.person.name
        unlike = iter(outliers(rows, first.references, limit))
        errors: list[UnlikePerson | None] = []
        for picture in pictures:
            outlier = None if picture.request.force else next(unlike)
            errors.append(
                None
                if outlier is None
                else outlier.error(name, limit, picture.person, self._lookalike(picture))
            )
        return errors

    def _lookalike(self, picture: Prepared) -> PersonName | None:
        """The other person who has this face; None: no person has."""
        own = None if picture.person is None else picture.person.id
        try:
            self._refuse_lookalike(picture.collection, own, picture.template)
        except Conflict as error:
            return PersonName.model_validate(error.details["lookalike"])
        return None

    def write(self, prepared: Prepared) -> Enrolled:
        """Store a prepared reference. Raises Conflict for a lookalike (unless `force`)."""
        statement, who, template = prepared.request, prepared.who, prepared.template
        collection_name = prepared.collection.name
        with self._database.read() as session:
            storage = (
                None if statement.storage is None else storage_named(session, statement.storage)
            )
            cipher = self._vault.cipher(session, prepared.collection)
            person = _person(session, prepared.collection, who)
            # by a picture of the same batch
            known = self._known(session, prepared.collection, person, statement, cipher)
        if known is not None:
            return known
        if not statement.force:
            own = None if person is None else person.id
            self._refuse_lookalike(prepared.collection, own, template)
        with (
            self._files.kept(
                "photos", statement.image if statement.keeps else None, storage, cipher=cipher
            ) as file,
            self._database.write() as session,
        ):
            # Read again under the write lock: the person may have been erased in the meantime.
            now = self._clock.now()
            collection = collection_named(session, collection_name)
            person = _person(session, collection, who)
            if person is None and isinstance(who, PersonKey):
                person, _ = add_person(session, collection, who.new, now)
            if person is None:
                raise RuntimeError("a person that is neither there nor to be created")
            image = None
            quality, detection = prepared.quality, prepared.detection
            if statement.image is not None and quality is not None and detection is not None:
                image = add_image(
                    session, person, statement.image, file, quality, detection, now, cipher
                )
            row, seq = add_template(
                session, collection, person, template, image, quality, now, cipher
            )
            return self._enrolled(session, collection, person, row, image, seq, quality, detection)

    def _known(
        self,
        session: Session,
        collection: Collection,
        person: Person | None,
        request: Enrollment,
        cipher: Cipher,
    ) -> Enrolled | None:
        """The response for a file that this person was enrolled from before; None: it is new."""
        if person is None or request.image is None:
            return None
        statement = select(Image, Template).join(Template, Template.image_id == Image.id)
        statement = statement.where(
            Image.person_number == person.number, Image.sha256 == cipher.digest(request.image)
        ).order_by(Template.number)
        if request.keeps:  # the photo was not kept before: enroll it again
            statement = statement.where(Image.file.is_not(None))
        rows = session.execute(statement).all()
        if request.box is not None or isinstance(
            request.face, int
        ):  # perhaps another face of the file
            rows = [row for row in rows if _shows(row.Image, request)]
        if not rows:
            return None
        image, template = rows[0]
        quality = Quality.model_validate(image.quality)
        detection = Detection.model_validate(image.detection)
        seq = position(session)
        answer = self._enrolled(
            session, collection, person, template, image, seq, quality, detection
        )
        return answer.model_copy(update={"duplicate": True})

    def _enrolled(
        self,
        session: Session,
        collection: Collection,
        person: Person,
        template: Template,
        image: Image | None,
        seq: int,
        quality: Quality | None,
        detection: Detection | None,
    ) -> Enrolled:
        kept = image is not None and image.file is not None
        missed = self._points.references.missed(collection.model_id)
        return Enrolled(
            person=PersonName(id=person.id, name=person.name),
            image_id=None if image is None else image.id,
            template_id=template.id,
            quality=quality,
            detection=detection,
            url=f"/v1/images/{image.id}/content" if image is not None and kept else None,
            references=(count := reference_count(session, person)),
            advice=advice(count, missed),
            seq=seq,
        )

    def add_template(self, name: str, person_id: str, request: TemplateCreate) -> TemplateWritten:
        """Enroll a template from another system, without a check of quality or of lookalikes."""
        with self._database.write() as session:
            collection = collection_named(session, name)
            person = person_named(session, collection, person_id)
            template = template_of(request.template, request.model_id, collection)
            now = self._clock.now()
            cipher = self._vault.cipher(session, collection)
            row, seq = add_template(session, collection, person, template, None, None, now, cipher)
            return TemplateWritten(seq=seq, **dict(template_view(row, person.id)))

    def _refuse_lookalike(
        self, collection: Collection, own: str | None, template: FaceTemplate
    ) -> None:
        """Conflict when the face already belongs to another person than `own` (an id).

        Two such enrollments at the same moment both pass; in a search the margin of the policy
        protects from lookalikes.
        """
        reached = self._galleries.caught_up(collection)
        probe = template.vector[np.newaxis]
        with self._database.read() as session:
            (ranked,) = rank_persons(
                stored_persons(session), reached.gallery, probe, 2, self._clock.now()
            )
        others = [candidate for candidate in ranked if candidate.person_id != own]
        if not others:
            return
        point = self._points.named(self._database, collection.name)
        if others[0].similarity >= point.threshold:
            lookalike = PersonName(id=others[0].person_id, name=others[0].person_name)
            raise Conflict(
                f"this face already belongs to {lookalike.name!r} (similarity "
                f"{others[0].similarity:.2f}); pass force=1 to enroll it in spite of that",
                lookalike=lookalike.model_dump(),
                similarity=round(others[0].similarity, 4),
            )


def _person(session: Session, collection: Collection, who: str | PersonKey) -> Person | None:
    """The person; None when it is to be created. Raises NotFound for an unknown id."""
    if isinstance(who, PersonKey):
        return who.find(session, collection)
    return person_named(session, collection, who)


def _shows(image: Image, request: Enrollment) -> bool:
    """Whether an image was enrolled from the face that a request chooses."""
    detection = Detection.model_validate(image.detection)
    if request.box is not None:
        return overlap(detection.box, request.box) >= LEAST_OVERLAP
    return detection.face == request.face


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
