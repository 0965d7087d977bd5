"""References from confirmed sightings, where the collection's policy allows them."""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from match_server.db.tables import Collection, Event, EventDecision, Person, Template
from match_server.schemas.collections import stored_policy
from match_server.services.enrollment.consistency import outliers, unlike_limit
from match_server.services.enrollment.references import remove_templates
from match_server.services.enrollment.rows import add_template
from match_server.services.lookups import count_of
from match_server.services.recognition.context import Recognition
from match_server.services.recognition.person_cache import stored_persons
from match_server.services.recognition.ranking import rank_persons
from match_server.services.recognition.stored_rows import rows_of_person
from shared.errors import Conflict
from shared.wire.quality import Quality
from shared.wire.template import Template as FaceTemplate

LEAST_QUALITY = 0.4
"""Score of the sighting's best shot from which it may become a reference."""


@dataclass(frozen=True, slots=True)
class LearningResult:
    """The learnt reference, or the reason why there is none; both None where learning is off."""

    template_id: str | None
    reason: str | None


class Learner:
    """Adds references from sightings, and removes them."""

    def __init__(self, recognition: Recognition) -> None:
        self._galleries = recognition.galleries
        self._vault = recognition.vault
        self._points = recognition.points
        self._clock = recognition.clock

    def learn(
        self,
        session: Session,
        collection: Collection,
        person: Person,
        event: Event,
        row: NDArray[np.float32] | None,
        now: datetime,
    ) -> LearningResult:
        """Add a reference for a person from a sighting that a user has decided on."""
        most = stored_policy(collection.policy).learn_references
        if not most:
            return LearningResult(None, None)
        quality = Quality.model_validate(event.quality)
        if row is None:
            return LearningResult(None, "the sighting's template is not kept any more")
        if not quality.passed or quality.score < LEAST_QUALITY:
            return LearningResult(None, "the sighting's quality is too low")
        if _learnt(session, person) >= most:
            return LearningResult(None, f"{most} references of this person are learnt already")
        against = self._against(session, collection, person, row, now)
        if against is not None:
            return LearningResult(None, against)
        template = FaceTemplate(collection.model_id, row)
        cipher = self._vault.cipher(session, collection)
        try:
            made, _ = add_template(
                session, collection, person, template, None, quality, now, cipher
            )
        except Conflict as error:  # the collection is full
            return LearningResult(None, error.message)
        return LearningResult(made.id, None)

    def forget(self, session: Session, collection: Collection, template_id: str) -> None:
        """Remove a learnt reference, if it still exists."""
        row = session.execute(
            select(Template.number, Person.id)
            .join(Person, Person.number == Template.person_number)
            .where(Template.id == template_id)
        ).one_or_none()
        if row is not None:
            which = Template.number == row.number
            remove_templates(session, collection, which, row.id, self._clock)

    def _against(
        self,
        session: Session,
        collection: Collection,
        person: Person,
        row: NDArray[np.float32],
        now: datetime,
    ) -> str | None:
        """Why the face must not be learnt: unlike the person, or like another; None: it may."""
        point = self._points.named(session, collection.name)
        cipher = self._vault.cipher(session, collection)
        references = rows_of_person(session, collection, person, cipher)
        (unlike,) = outliers(row[np.newaxis], references, unlike_limit(point))
        if unlike is not None:
            return "the sighting is unlike the person's references"
        gallery = self._galleries.caught_up(collection).gallery
        (ranked,) = rank_persons(stored_persons(session), gallery, row[np.newaxis], 2, now)
        others = [candidate for candidate in ranked if candidate.person_number != person.number]
        if others and others[0].similarity >= point.threshold:
            return f"the sighting is as alike to {others[0].person_name!r}"
        return None


def _learnt(session: Session, person: Person) -> int:
    """How many learnt references of a person still exist."""
    learnt = select(EventDecision.template_id).where(EventDecision.template_id.is_not(None))
    mine = select(func.count()).where(
        Template.person_number == person.number, Template.id.in_(learnt)
    )
    return count_of(session, mine)
