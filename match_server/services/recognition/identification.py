"""Who is this? Search by picture, by template or by an enrolled template, in every form."""

import heapq
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from match_server.db.database import Database
from match_server.db.tables import Template
from match_server.schemas.persons import Detection, PersonName
from match_server.schemas.search import (
    CandidateView,
    Newcomer,
    ProbeAnswer,
    SearchAnswer,
    SearchEverywhere,
    SearchForm,
    SearchRequest,
)
from match_server.services.collection_ref import Scope, scope_named
from match_server.services.encryption.vault import Vault
from match_server.services.enrollment.collections import policy_of
from match_server.services.enrollment.create_on_search import Newcomers, Stranger
from match_server.services.galleries.galleries import Galleries, stored_rows
from match_server.services.lookups import groups_of
from match_server.services.recognition.assignment import Listed, Verdict, judge
from match_server.services.recognition.candidates import Candidate
from match_server.services.recognition.detection import detection_of, embedded
from match_server.services.recognition.engines import Engines
from match_server.services.recognition.face_choice import obstacles
from match_server.services.recognition.filters import among
from match_server.services.recognition.operating_point import OperatingPoint, OperatingPoints
from match_server.services.recognition.ranking import rank_persons
from match_server.services.recognition.template_input import template_of
from shared.clock import Clock
from shared.errors import ModelMismatch, NoFace, NotFound
from shared.wire.quality import Quality
from shared.wire.template import Template as FaceTemplate

_ROUNDING = 1e-6  # of similarities, between the scan and the decision


@dataclass(frozen=True, slots=True)
class _Probe:
    """What is searched with, and what is known of the face that it came from."""

    template: FaceTemplate
    detection: Detection | None = None
    quality: Quality | None = None
    obstacles: Sequence[str] = ()  # why nobody may be created from it


@dataclass(frozen=True, slots=True)
class _Found:
    lists: list[list[Listed]]  # one for each probe, best first
    searched: int  # templates
    seq: int  # that every gallery had reached
    thresholds: Mapping[str, float]  # that decided, by collection


class Identification:
    """Identification, in one collection or in several."""

    def __init__(
        self,
        database: Database,
        engines: Engines,
        galleries: Galleries,
        newcomers: Newcomers,
        clock: Clock,
        vault: Vault,
        points: OperatingPoints,
    ) -> None:
        self._vault = vault
        self._points = points
        self._database = database
        self._engines = engines
        self._galleries = galleries
        self._newcomers = newcomers
        self._clock = clock

    def search(self, collection: str, wanted: SearchRequest) -> SearchAnswer:
        """The candidate list and the decision for each probe of the request.

        Raises NoFace for a picture without a face, ModelMismatch for templates of another model.
        """
        return self._search([collection], wanted, wanted.newcomer)

    def search_everywhere(self, wanted: SearchEverywhere) -> SearchAnswer:
        """The same over several collections, with one merged candidate list for each probe.

        Each candidate is judged by the policy of its own collection. Raises ModelMismatch when
        they are not all of one model: similarities of two models cannot be ranked together.
        """
        return self._search(list(dict.fromkeys(wanted.collections)), wanted, None)

    def _search(
        self, names: Sequence[str], wanted: SearchForm, newcomer: Newcomer | None
    ) -> SearchAnswer:
        started_s = time.perf_counter()
        owners = [scope_named(self._database, name) for name in names]
        _require_one_model(owners)
        probes = self._probes(owners, wanted, newcomer)
        in_one_picture = wanted.image is not None
        # A face may lose each candidate but one to the picture's other faces, and that one needs
        # somebody to be ahead of.
        length = max(wanted.limit, len(probes) + 1 if in_one_picture else 2)
        found = self._found(owners, wanted, probes, length)
        if in_one_picture:
            verdicts = judge(found.lists)
        else:
            verdicts = [judge([candidates])[0] for candidates in found.lists]
        answers = [
            _answer(wanted, probe, candidates, verdict)
            for probe, candidates, verdict in zip(probes, found.lists, verdicts, strict=True)
        ]
        seq = found.seq
        if newcomer is not None:
            for row, (probe, answer) in enumerate(zip(probes, answers, strict=True)):
                made = self._created(owners[0], wanted, newcomer, probe, answer)
                if made is not None:
                    answers[row], seq = made[0], seq if made[1] is None else made[1]
        return SearchAnswer(
            probes=answers,
            searched=found.searched,
            seq=seq,
            thresholds=dict(found.thresholds),
            took_ms=round((time.perf_counter() - started_s) * 1000, 2),
        )

    def _found(
        self, owners: Sequence[Scope], wanted: SearchForm, probes: list[_Probe], length: int
    ) -> _Found:
        rows = np.stack([probe.template.vector for probe in probes])
        reached = [self._galleries.caught_up(owner, wanted.min_seq) for owner in owners]
        by_owner: list[list[list[Listed]]] = []
        thresholds: dict[str, float] = {}
        searched, now = 0, self._clock.now()
        # Over several collections a stranger has the chance to be like anybody of all of them.
        together = sum(owner.templates for owner in owners)
        points = [self._points.of(owner, searched=together) for owner in owners]
        at_least = _least_of_interest(wanted, points)
        chosen_of = self._chosen(owners, wanted)
        for owner, point, one, chosen in zip(owners, points, reached, chosen_of, strict=True):
            searched += len(one.gallery) if chosen is None else len(chosen)
            lists = rank_persons(
                self._database, one.gallery, rows, length, now, among=chosen, at_least=at_least
            )
            by_owner.append([_listed(owner, point, wanted, candidates) for candidates in lists])
            thresholds[owner.name] = point.threshold
        merged = [
            list(heapq.merge(*lists, key=lambda one: -one.candidate.similarity))[:length]
            for lists in zip(*by_owner, strict=True)
        ]
        if wanted.threshold is not None:
            thresholds = dict.fromkeys(thresholds, wanted.threshold)
        return _Found(merged, searched, min(one.seq for one in reached), thresholds)

    def _chosen(
        self, owners: Sequence[Scope], wanted: SearchForm
    ) -> Sequence[NDArray[np.uint64] | None]:
        """For each collection the templates that groups and filter leave; None: all."""
        if wanted.groups is None and not wanted.filter:
            return [None] * len(owners)
        with self._database.read() as session:
            groups = None
            if wanted.groups is not None:
                groups = groups_of(session, wanted.groups, *owners)
            return [among(session, owner, groups, wanted.filter) for owner in owners]

    def _probes(
        self, owners: Sequence[Scope], wanted: SearchForm, newcomer: Newcomer | None
    ) -> list[_Probe]:
        if wanted.image is not None:
            gate = "doorway" if newcomer is None else policy_of(owners[0]).gate
            return self._seen(
                owners[0],
                wanted.image,
                gate,
                every=wanted.detect_all,
                creating=newcomer is not None,
            )
        if wanted.templates is not None:
            return [
                _Probe(template_of(one.vector, one.model_id, owners[0])) for one in wanted.templates
            ]
        return [_Probe(self._enrolled(owners, wanted.template_id))]

    def _seen(
        self, owner: Scope, picture: bytes, gate: str, *, every: bool, creating: bool
    ) -> list[_Probe]:
        models = self._engines.of(owner)
        frame = (0, 0)
        if creating:
            faces, frame = models.judged(picture, gate=gate)
        else:
            faces = models.analyze(picture, gate=gate)
        if not faces:
            raise NoFace("no face was found in the picture", reasons=["no_face"])
        probes = []
        for index, face in enumerate(faces if every else faces[:1]):
            against = list(face.quality.reasons)
            if creating:
                against += obstacles([face] if every else faces, frame)
            detection = detection_of(face, len(faces), index)
            probes.append(_Probe(embedded(face), detection, face.quality, against))
        return probes

    def _enrolled(self, owners: Sequence[Scope], template_id: str | None) -> FaceTemplate:
        with self._database.read() as session:
            row = session.execute(
                select(Template.vector, Template.model_id, Template.collection_number).where(
                    Template.id == template_id,
                    Template.collection_number.in_([owner.number for owner in owners]),
                )
            ).one_or_none()
            if row is not None:
                (owner,) = (one for one in owners if one.number == row.collection_number)
                cipher = self._vault.cipher(session, owner)
        if row is None:
            names = ", ".join(repr(owner.name) for owner in owners)
            raise NotFound(f"there is no template {template_id!r} in {names}")
        opened = cipher.open_vectors(row.model_id, [(str(template_id), row.vector)])
        (vector,) = stored_rows(opened, owner.dimension)
        return FaceTemplate(row.model_id, vector)

    def _created(
        self,
        owner: Scope,
        wanted: SearchForm,
        newcomer: Newcomer,
        probe: _Probe,
        answer: ProbeAnswer,
    ) -> tuple[ProbeAnswer, int | None] | None:
        """The answer with the person created for it, or with why none was; None: nobody new."""
        if answer.decision != "unknown":
            return None
        if probe.obstacles:
            refused = answer.model_copy(update={"not_created": list(probe.obstacles)})
            return refused, None
        stranger = Stranger(probe.template, wanted.image, probe.detection, probe.quality)
        made = self._newcomers.create(owner, stranger, newcomer)
        if made is None:
            return None
        changes = {"person": made.person, "collection": owner.name, "created": True}
        return answer.model_copy(update=changes), made.seq


def _require_one_model(owners: Sequence[Scope]) -> None:
    first = owners[0]
    for owner in owners[1:]:
        if owner.model_id != first.model_id:
            raise ModelMismatch(
                f"collection {first.name!r} holds templates of {first.model_id!r} and "
                f"{owner.name!r} of {owner.model_id!r}: they cannot be searched together"
            )


def _least_of_interest(wanted: SearchForm, points: Sequence[OperatingPoint]) -> float:
    """Below which a candidate changes nothing in the answer, so the galleries may leave it out.

    A threshold in the request cuts the lists; besides, only who is within the margin of that
    matters. Match probabilities weigh the whole list, so with them nothing is left out.
    """
    if wanted.threshold is None or any(point.calibration is not None for point in points):
        return -1.0
    return max(wanted.threshold - max(point.margin for point in points) - _ROUNDING, -1.0)


def _listed(
    owner: Scope, point: OperatingPoint, wanted: SearchForm, candidates: Sequence[Candidate]
) -> list[Listed]:
    threshold = point.threshold if wanted.threshold is None else wanted.threshold
    return [Listed(one, threshold, point.margin, owner.name) for one in point.judged(candidates)]


def _answer(
    wanted: SearchForm, probe: _Probe, candidates: Sequence[Listed], verdict: Verdict
) -> ProbeAnswer:
    shown = [
        one
        for one in candidates[: wanted.limit]
        if wanted.threshold is None or one.candidate.similarity >= wanted.threshold
    ]
    named = verdict.named
    return ProbeAnswer(
        detection=probe.detection,
        quality=probe.quality,
        candidates=[
            CandidateView.of(
                _name(one.candidate),
                one.candidate.template_id,
                one.candidate.similarity,
                one.candidate.match_probability,
                rank=rank,
                collection=one.collection,
            )
            for rank, one in enumerate(shown, start=1)
        ],
        decision=verdict.decision,
        person=None if named is None else _name(named.candidate),
        collection=None if named is None else named.collection,
    )


def _name(candidate: Candidate) -> PersonName:
    return PersonName(id=candidate.person_id, name=candidate.person_name)
