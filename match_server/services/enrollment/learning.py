"""References from confirmed sightings: only where the collection allows it, and of few a person."""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from match_server.db.tables import Collection, Event, EventDecision, Person, Template
from match_server.services.collection_ref import scope_named
from match_server.services.encryption.vault import Vault
from match_server.services.enrollment.collections import policy_of
from match_server.services.enrollment.consistency import odd_ones, unlike_limit
from match_server.services.enrollment.references import remove_templates, rows_of_person
from match_server.services.enrollment.rows import add_template
from match_server.services.galleries.galleries import Galleries
from match_server.services.lookups import count_of
from match_server.services.recognition.operating_point import OperatingPoints
from match_server.services.recognition.ranking import rank_persons
from shared.clock import Clock
from shared.errors import Conflict
from shared.wire.quality import Quality
from shared.wire.template import Template as FaceTemplate

LEAST_QUALITY = 0.4
"""Score of the sighting's best shot from which it may become a reference."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What was learnt, or why nothing was; both None where the collection does not learn."""

    template_id: str | None
    reason: str | None


class Learner:
    """Makes references of sightings, and takes them back."""

    def __init__(
        self, galleries: Galleries, vault: Vault, points: OperatingPoints, clock: Clock
    ) -> None:
        self._galleries = galleries
        self._vault = vault
        self._points = points
        self._clock = clock

    def learn(
        self,
        session: Session,
        owner: Collection,
        person: Person,
        event: Event,
        row: NDArray[np.float32] | None,
        now: datetime,
    ) -> Lesson:
        """A reference for a person from a sighting on which somebody has decided."""
        most = policy_of(owner).learn_references
        if not most:
            return Lesson(None, None)
        quality = Quality.model_validate(event.quality)
        if row is None:
            return Lesson(None, "the sighting's template is not kept any more")
        if not quality.passed or quality.score < LEAST_QUALITY:
            return Lesson(None, "the sighting's quality is too low")
        if _learnt(session, person) >= most:
            return Lesson(None, f"{most} references of this person are learnt already")
        against = self._against(session, owner, person, row, now)
        if against is not None:
            return Lesson(None, against)
        template = FaceTemplate(owner.model_id, row)
        cipher = self._vault.cipher(session, owner)
        try:
            made, _ = add_template(session, owner, person, template, None, quality, now, cipher)
        except Conflict as error:  # the collection is full
            return Lesson(None, error.message)
        return Lesson(made.id, None)

    def forget(self, session: Session, owner: Collection, template_id: str) -> None:
        """Remove a learnt reference, where it is still there."""
        row = session.execute(
            select(Template.number, Person.id)
            .join(Person, Person.number == Template.person_number)
            .where(Template.id == template_id)
        ).one_or_none()
        if row is not None:
            which = Template.number == row.number
            remove_templates(session, owner, which, row.id, self._clock)

    def _against(
        self,
        session: Session,
        owner: Collection,
        person: Person,
        row: NDArray[np.float32],
        now: datetime,
    ) -> str | None:
        """Whom the face is unlike, or too like."""
        point = self._points.of(scope_named(session, owner.name))
        cipher = self._vault.cipher(session, owner)
        references = rows_of_person(session, owner, person, cipher)
        (unlike,) = odd_ones(row[np.newaxis], references, unlike_limit(point))
        if unlike is not None:
            return "the sighting is unlike the person's references"
        gallery = self._galleries.caught_up(owner).gallery
        (ranked,) = rank_persons(session, gallery, row[np.newaxis], 2, now)
        others = [one for one in ranked if one.person_number != person.number]
        if others and others[0].similarity >= point.threshold:
            return f"the sighting is as alike to {others[0].person_name!r}"
        return None


def _learnt(session: Session, person: Person) -> int:
    """How many references of a person were learnt and are still there."""
    learnt = select(EventDecision.template_id).where(EventDecision.template_id.is_not(None))
    mine = select(func.count()).where(
        Template.person_number == person.number, Template.id.in_(learnt)
    )
    return count_of(session, mine)
