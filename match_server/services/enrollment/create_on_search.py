"""Persons whom a search creates, because it found nobody like them."""

from dataclasses import dataclass

import numpy as np

from match_server.db.database import Database
from match_server.schemas.persons import Detection, PersonCreate, PersonName
from match_server.schemas.search import Newcomer
from match_server.services.collection_ref import Scope
from match_server.services.encryption.vault import Vault
from match_server.services.enrollment.persons import add_person
from match_server.services.enrollment.rows import add_image, add_template
from match_server.services.galleries.galleries import Galleries
from match_server.services.lookups import collection_named
from match_server.services.recognition.operating_point import OperatingPoints
from match_server.services.recognition.ranking import rank_persons
from shared.clock import Clock
from shared.errors import Conflict
from shared.wire.quality import Quality
from shared.wire.template import Template


@dataclass(frozen=True, slots=True)
class Stranger:
    """A probe that nobody matched."""

    template: Template
    picture: bytes | None = None  # that it was seen in; None for a template from elsewhere
    detection: Detection | None = None
    quality: Quality | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """The person made of a stranger."""

    person: PersonName
    seq: int


class Newcomers:
    """Makes persons of strangers."""

    def __init__(
        self,
        database: Database,
        galleries: Galleries,
        clock: Clock,
        vault: Vault,
        points: OperatingPoints,
    ) -> None:
        self._database = database
        self._galleries = galleries
        self._clock = clock
        self._vault = vault
        self._points = points

    def create(self, searched: Scope, stranger: Stranger, known: Newcomer) -> Made | None:
        """A new person with one template; None when somebody like it is there by now.

        Whether somebody is there is looked up once more inside the transaction, after it has its
        number in the feed: all who write wait for that, so of two searches for one stranger only
        the first creates a person.
        """
        now = self._clock.now()
        name = known.name or f"Unknown {now:%Y-%m-%d %H:%M:%S}"
        wanted = PersonCreate(
            name=name,
            metadata=known.metadata,
            groups=known.groups,
            expires_at=known.expires_at,
        )
        point = self._points.of(searched)
        if not point.reachable:  # everybody would look new, each time
            raise Conflict(f"nobody can be created as unknown: {point.view.explanation}")
        with self._database.write() as session:
            owner = collection_named(session, searched.name)
            person, _ = add_person(session, owner, wanted, now)
            gallery = self._galleries.caught_up(owner).gallery
            probe = stranger.template.vector[np.newaxis]
            (ranked,) = rank_persons(session, gallery, probe, 1, now)
            if ranked and ranked[0].similarity >= point.threshold:
                session.rollback()
                return None
            image, cipher = None, self._vault.cipher(session, owner)
            if stranger.picture and stranger.quality and stranger.detection:
                image = add_image(
                    session,
                    person,
                    stranger.picture,
                    None,
                    stranger.quality,
                    stranger.detection,
                    now,
                    cipher,
                )
            template = stranger.template
            quality = stranger.quality
            _, seq = add_template(session, owner, person, template, image, quality, now, cipher)
            return Made(PersonName(id=person.id, name=person.name), seq)
