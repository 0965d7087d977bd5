"""Searches that create a person for each face that matches no person of the collection."""

import time
from dataclasses import dataclass

import numpy as np

from match_server.schemas.persons import PersonCreate, PersonName
from match_server.schemas.search import Newcomer, ProbeAnswer, SearchAnswer, SearchRequest
from match_server.services.collection_ref import CollectionRef
from match_server.services.enrollment.persons import add_person
from match_server.services.enrollment.rows import add_image, add_template
from match_server.services.lookups import collection_named
from match_server.services.policy.operating_point_view import view_of
from match_server.services.recognition.context import Recognition
from match_server.services.recognition.identification import Identification, Probe
from match_server.services.recognition.person_cache import stored_persons
from match_server.services.recognition.ranking import rank_persons
from match_server.services.revision import Revision
from shared.errors import Conflict


@dataclass(frozen=True, slots=True)
class _Created:
    person: PersonName
    seq: int


class CreateOnSearch:
    """Searches one collection; where the request asks for it, unknown faces become persons."""

    def __init__(self, recognition: Recognition, identification: Identification) -> None:
        self._recognition = recognition
        self._identification = identification

    def search(
        self, collection: str, request: SearchRequest, at: Revision | None = None
    ) -> SearchAnswer:
        """The candidate list and the decision for each probe of the request.

        Raises as `Identification.search`, and Conflict where the collection's policy cannot tell
        a known face from a new one.
        """
        if request.newcomer is None:
            return self._identification.search(collection, request, at)
        started_s = time.perf_counter()
        search = self._identification.identify([collection], request, at, creating=True)
        answers, seq = [], search.answer.seq
        for probe, answer in zip(search.probes, search.answer.probes, strict=True):
            created = None
            if answer.decision == "unknown" and not probe.obstacles:
                created = self._create(search.collections[0], probe, request.newcomer)
            if created is not None:
                seq = created.seq
            answers.append(_answer(answer, probe, created, collection))
        took_ms = round((time.perf_counter() - started_s) * 1000, 2)
        changes = {"probes": answers, "seq": seq, "took_ms": took_ms}
        return search.answer.model_copy(update=changes)

    def _create(self, searched: CollectionRef, probe: Probe, newcomer: Newcomer) -> _Created | None:
        """A new person with one template; None when a person like it exists by now.

        The search is repeated inside the transaction, after it has its number in the change feed.
        All writers wait for that number, so of two searches for one face only the first creates a
        person.
        """
        parts = self._recognition
        now = parts.clock.now()
        point = parts.points.of(searched)
        if not point.reachable:  # every face would look new, each time
            raise Conflict(f"nobody can be created as unknown: {view_of(point).explanation}")
        request = PersonCreate(
            name=newcomer.name or f"Unknown {now:%Y-%m-%d %H:%M:%S}",
            metadata=newcomer.metadata,
            groups=newcomer.groups,
            expires_at=newcomer.expires_at,
        )
        template, quality = probe.template, probe.quality
        with parts.database.write() as session:
            collection = collection_named(session, searched.name)
            person, _ = add_person(session, collection, request, now)
            gallery = parts.galleries.caught_up(collection).gallery
            (ranked,) = rank_persons(
                stored_persons(session), gallery, template.vector[np.newaxis], 1, now
            )
            if ranked and ranked[0].similarity >= point.threshold:
                session.rollback()
                return None
            image, cipher = None, parts.vault.cipher(session, collection)
            if probe.picture and quality and probe.detection:
                image = add_image(
                    session, person, probe.picture, None, quality, probe.detection, now, cipher
                )
            _, seq = add_template(
                session, collection, person, template, image, quality, now, cipher
            )
            return _Created(PersonName(id=person.id, name=person.name), seq)


def _answer(
    answer: ProbeAnswer, probe: Probe, created: _Created | None, collection: str
) -> ProbeAnswer:
    """The answer with the person that was created, or with the reasons why none was."""
    if created is not None:
        changes = {"person": created.person, "collection": collection, "created": True}
        return answer.model_copy(update=changes)
    if answer.decision == "unknown" and probe.obstacles:
        return answer.model_copy(update={"not_created": list(probe.obstacles)})
    return answer
