"""Enrollment: from a picture, or a template of elsewhere, to a reference in a collection."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from match_server.db.database import Database
from match_server.db.tables import Collection, Image, Person, Template
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
from match_server.services.collection_ref import scope_named
from match_server.services.encryption.vault import Cipher, Vault
from match_server.services.enrollment.advice import advice
from match_server.services.enrollment.collections import policy_of
from match_server.services.enrollment.consistency import Rows, odd_ones, unlike_limit
from match_server.services.enrollment.persons import add_person
from match_server.services.enrollment.references import (
    reference_count,
    rows_of_person,
    template_view,
)
from match_server.services.enrollment.rows import add_image, add_template
from match_server.services.galleries.galleries import Galleries
from match_server.services.lookups import collection_named, person_named, storage_named
from match_server.services.recognition.detection import detection_of_chosen, embedded
from match_server.services.recognition.engines import Engines
from match_server.services.recognition.face_choice import LEAST_OVERLAP, FaceChoice, overlap
from match_server.services.recognition.operating_point import OperatingPoints
from match_server.services.recognition.ranking import rank_persons
from match_server.services.recognition.template_input import template_of
from match_server.services.storage.files import FileStore
from shared.clock import Clock
from shared.errors import Conflict, ModelMismatch, QualityRefused, UnlikePerson
from shared.wire.quality import Quality
from shared.wire.template import Template as FaceTemplate


@dataclass(frozen=True, slots=True)
class Named:
    """A person as a folder or a line names it, created when there is none.

    `key` is looked for among the ids of the collection and, with `by_name`, among the names.
    """

    key: str
    by_name: bool
    new: PersonCreate

    def find(self, session: Session, owner: Collection) -> Person | None:
        """The person; None when there is none. Raises Conflict when several have the name."""
        everybody = select(Person).where(Person.collection_number == owner.number)
        by_id = session.scalars(everybody.where(Person.id == self.key)).one_or_none()
        if by_id is not None or not self.by_name:
            return by_id
        found = session.scalars(everybody.where(Person.name == self.new.name).limit(2)).all()
        if len(found) > 1:
            raise Conflict(
                f"several persons are named {self.new.name!r}: give the id of the one that is meant"
            )
        return found[0] if found else None


@dataclass(frozen=True, slots=True)
class Prepared:
    """What will be enrolled, before it is compared with anybody."""

    who: str | Named
    request: Enrollment
    owner: Collection  # as it was read
    person: PersonName | None  # None: to be created
    references: Rows  # of the person so far
    template: FaceTemplate
    quality: Quality | None = None
    detection: Detection | None = None


class Enroller:
    """Adds references to persons."""

    def __init__(
        self,
        database: Database,
        engines: Engines,
        galleries: Galleries,
        files: FileStore,
        clock: Clock,
        vault: Vault,
        points: OperatingPoints,
    ) -> None:
        self._vault = vault
        self._points = points
        self._database = database
        self._engines = engines
        self._galleries = galleries
        self._files = files
        self._clock = clock

    def enroll(self, collection: str, who: str | Named, wanted: Enrollment) -> Enrolled:
        """Enroll a face of a picture, or a template, for a person (by id, or `Named`).

        A file that the person was enrolled from before adds nothing. Raises NoFace (also for what
        is hardly a face), QualityRefused (`reasons`), UnlikePerson and Conflict (the lookalike)
        unless `force`; SeveralFaces where it is not said which face is meant; ModelMismatch;
        Conflict when the collection is full.
        """
        try:
            return self._enroll(collection, who, wanted)
        except ModelMismatch:
            if wanted.image is None:
                raise
            return self._enroll(collection, who, wanted)  # the collection has just got new models

    def _enroll(self, collection: str, who: str | Named, wanted: Enrollment) -> Enrolled:
        prepared = self.prepare(collection, who, wanted)
        if isinstance(prepared, Enrolled):
            return prepared
        (unlike,) = self.compared([prepared])
        if unlike is not None:
            raise unlike
        return self.write(prepared)

    def prepare(self, collection: str, who: str | Named, wanted: Enrollment) -> Prepared | Enrolled:
        """What is to be enrolled; `Enrolled` for a file that the person was enrolled from before.

        Raises as `enroll`, but for the comparisons with persons.
        """
        with self._database.read() as session:
            owner = collection_named(session, collection)
            person = _person(session, owner, who)
            cipher = self._vault.cipher(session, owner)
            known = self._known(session, owner, person, wanted, cipher)
            if wanted.storage is not None:
                storage_named(session, wanted.storage)
            references = rows_of_person(session, owner, person, cipher)
        if known is not None:
            return known
        name = None if person is None else PersonName(id=person.id, name=person.name)
        if wanted.image is None:
            template = template_of(wanted.template, wanted.model_id, owner)
            return Prepared(who, wanted, owner, name, references, template)
        choice = FaceChoice(wanted.face, wanted.box)
        engine = self._engines.of(owner)
        chosen = engine.chosen(wanted.image, choice, gate=policy_of(owner).gate, force=wanted.force)
        if not (wanted.force or chosen.face.quality.passed):
            raise _refusal(chosen.face.quality)
        template = embedded(chosen.face)
        quality, detection = chosen.face.quality, detection_of_chosen(chosen)
        return Prepared(who, wanted, owner, name, references, template, quality, detection)

    def compared(self, pictures: Sequence[Prepared]) -> list[UnlikePerson | None]:
        """What speaks against new pictures of one person, or None; `force` asks nothing."""
        asking = [one for one in pictures if not one.request.force]
        if not asking:
            return [None] * len(pictures)
        first = asking[0]
        point = self._points.of(scope_named(self._database, first.owner.name))
        limit = unlike_limit(point)
        rows = np.stack([one.template.vector for one in asking])
        named = first.who.new.name if isinstance(first.who, Named) else first.who
        name = named if first.person is None else first.person.name
        odd = iter(odd_ones(rows, first.references, limit))
        found = [None if one.request.force else next(odd) for one in pictures]
        return [
            None
            if one is None
            else one.error(name, limit, picture.person, self._lookalike(picture))
            for one, picture in zip(found, pictures, strict=True)
        ]

    def _lookalike(self, picture: Prepared) -> PersonName | None:
        """Whose the face is instead."""
        own = None if picture.person is None else picture.person.id
        try:
            self._refuse_lookalike(picture.owner, own, picture.template)
        except Conflict as error:
            return PersonName.model_validate(error.details["lookalike"])
        return None

    def write(self, prepared: Prepared) -> Enrolled:
        """Enroll what was prepared. Raises Conflict for a lookalike (unless `force`)."""
        wanted, who, template = prepared.request, prepared.who, prepared.template
        collection = prepared.owner.name
        with self._database.read() as session:
            storage = None if wanted.storage is None else storage_named(session, wanted.storage)
            cipher = self._vault.cipher(session, prepared.owner)
            person = _person(session, prepared.owner, who)
            # by a picture of the same batch
            known = self._known(session, prepared.owner, person, wanted, cipher)
        if known is not None:
            return known
        if not wanted.force:
            own = None if person is None else person.id
            self._refuse_lookalike(prepared.owner, own, template)
        with (
            self._files.kept(
                "photos", wanted.image if wanted.keeps else None, storage, cipher=cipher
            ) as file,
            self._database.write() as session,
        ):
            # Read again under the write lock: the person may have been erased in the meantime.
            now = self._clock.now()
            owner = collection_named(session, collection)
            person = _person(session, owner, who)
            if person is None and isinstance(who, Named):
                person, _ = add_person(session, owner, who.new, now)
            if person is None:
                raise RuntimeError("a person that is neither there nor to be created")
            image = None
            quality, detection = prepared.quality, prepared.detection
            if wanted.image is not None and quality is not None and detection is not None:
                image = add_image(
                    session, person, wanted.image, file, quality, detection, now, cipher
                )
            row, seq = add_template(session, owner, person, template, image, quality, now, cipher)
            return self._enrolled(session, owner, person, row, image, seq, quality, detection)

    def _known(
        self,
        session: Session,
        owner: Collection,
        person: Person | None,
        wanted: Enrollment,
        cipher: Cipher,
    ) -> Enrolled | None:
        """The answer for a file that this person was enrolled from before."""
        if person is None or wanted.image is None:
            return None
        found = select(Image, Template).join(Template, Template.image_id == Image.id)
        found = found.where(
            Image.person_number == person.number, Image.sha256 == cipher.digest(wanted.image)
        ).order_by(Template.number)
        if wanted.keeps:  # a photo that was not kept then is wanted now: enroll it anew
            found = found.where(Image.file.is_not(None))
        rows = session.execute(found).all()
        if wanted.box is not None or isinstance(
            wanted.face, int
        ):  # perhaps another face of the file
            rows = [row for row in rows if _shows(row.Image, wanted)]
        if not rows:
            return None
        image, template = rows[0]
        quality = Quality.model_validate(image.quality)
        detection = Detection.model_validate(image.detection)
        seq = position(session)
        answer = self._enrolled(session, owner, person, template, image, seq, quality, detection)
        return answer.model_copy(update={"duplicate": True})

    def _enrolled(
        self,
        session: Session,
        owner: Collection,
        person: Person,
        template: Template,
        image: Image | None,
        seq: int,
        quality: Quality | None,
        detection: Detection | None,
    ) -> Enrolled:
        kept = image is not None and image.file is not None
        missed = self._points.references.missed(owner.model_id)
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

    def add_template(
        self, collection: str, person_id: str, wanted: TemplateCreate
    ) -> TemplateWritten:
        """Enroll a vector from elsewhere as it is: no quality is known, no lookalike is sought."""
        with self._database.write() as session:
            owner = collection_named(session, collection)
            person = person_named(session, owner, person_id)
            template = template_of(wanted.template, wanted.model_id, owner)
            now = self._clock.now()
            cipher = self._vault.cipher(session, owner)
            row, seq = add_template(session, owner, person, template, None, None, now, cipher)
            return TemplateWritten(seq=seq, **dict(template_view(row, person.id)))

    def _refuse_lookalike(self, owner: Collection, own: str | None, template: FaceTemplate) -> None:
        """Conflict when the face already belongs to another person than `own` (an id).

        Two such enrollments at the very same moment both pass; the margin of the policy is what
        protects the search from lookalikes.
        """
        reached = self._galleries.caught_up(owner)
        probe = template.vector[np.newaxis]
        with self._database.read() as session:
            (ranked,) = rank_persons(session, reached.gallery, probe, 2, self._clock.now())
        others = [one for one in ranked if one.person_id != own]
        if not others:
            return
        point = self._points.of(scope_named(self._database, owner.name))
        if others[0].similarity >= point.threshold:
            lookalike = PersonName(id=others[0].person_id, name=others[0].person_name)
            raise Conflict(
                f"this face already belongs to {lookalike.name!r} (similarity "
                f"{others[0].similarity:.2f}); pass force=1 to enroll it in spite of that",
                lookalike=lookalike.model_dump(),
                similarity=round(others[0].similarity, 4),
            )


def _person(session: Session, owner: Collection, who: str | Named) -> Person | None:
    """The person; None when it is to be created. Raises NotFound for an id that there is not."""
    if isinstance(who, Named):
        return who.find(session, owner)
    return person_named(session, owner, who)


def _shows(image: Image, wanted: Enrollment) -> bool:
    """Whether an image was enrolled from the face that a request chooses."""
    detection = Detection.model_validate(image.detection)
    if wanted.box is not None:
        return overlap(detection.box, wanted.box) >= LEAST_OVERLAP
    return detection.face == wanted.face


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
