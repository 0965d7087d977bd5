"""Identification (1:N): search by picture, by templates or by an enrolled template."""

import heapq
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from match_server.db.tables import Template
from match_server.schemas.persons import Detection
from match_server.schemas.search import (
    ProbeAnswer,
    SearchAnswer,
    SearchEverywhere,
    SearchForm,
)
from match_server.services.collection_ref import CollectionCache, CollectionRef
from match_server.services.encryption.stored_templates import TEMPLATES, require_hashes
from match_server.services.faces.detection import detection_of, embedded
from match_server.services.faces.face_choice import obstacles
from match_server.services.lookups import groups_of
from match_server.services.policy.assignment import Judgement, Listed, judge
from match_server.services.policy.candidates import Candidate
from match_server.services.policy.operating_point import OperatingPoint
from match_server.services.recognition.context import Recognition
from match_server.services.recognition.filters import among
from match_server.services.recognition.ranking import rank_persons
from match_server.services.recognition.stored_rows import stored_rows
from match_server.services.recognition.template_input import template_of
from match_server.services.revision import Revision, read_revision
from shared.errors import ModelMismatch, NoFace, NotFound
from shared.wire.quality import Quality
from shared.wire.template import Template as FaceTemplate

_ROUNDING = 1e-6  # of similarities, between the scan and the decision


@dataclass(frozen=True, slots=True)
class Probe:
    """A template that is searched, and the face of a picture that it was made of."""

    template: FaceTemplate
    picture: bytes | None = None
    detection: Detection | None = None
    quality: Quality | None = None
    obstacles: Sequence[str] = ()  # why no person may be created from it


@dataclass(frozen=True, slots=True)
class Search:
    """A finished search: its collections, probes and result."""

    collections: Sequence[CollectionRef]
    probes: Sequence[Probe]
    answer: SearchAnswer  # its probes are in the same order


@dataclass(frozen=True, slots=True)
class _Ranking:
    lists: list[list[Listed]]  # of each probe, best first
    searched: int  # templates
    seq: int  # that every gallery had reached
    thresholds: Mapping[str, float]  # that decide, by collection


class Identification:
    """Searches one collection or several. It only reads."""

    def __init__(self, recognition: Recognition) -> None:
        self._database = recognition.database
        self._engines = recognition.engines
        self._galleries = recognition.galleries
        self._vault = recognition.vault
        self._points = recognition.points
        self._persons = recognition.persons
        self._collections = CollectionCache(recognition.database)
        self._clock = recognition.clock

    def search(
        self, collection: str, request: SearchForm, at: Revision | None = None
    ) -> SearchAnswer:
        """The candidate list and the decision for each probe of the request.

        A caller that has read the revision for this request passes it as `at`.

        Raises NoFace for a picture without a face, ModelMismatch for templates of another model.
        """
        return self.identify([collection], request, at).answer

    def search_everywhere(
        self, request: SearchEverywhere, at: Revision | None = None
    ) -> SearchAnswer:
        """The same over several collections, with one merged candidate list for each probe.

        Each candidate is judged by the policy of its own collection. Raises ModelMismatch when
        they are not all of one model: similarities of two models cannot be ranked together.
        """
        return self.identify(list(dict.fromkeys(request.collections)), request, at).answer

    def identify(
        self,
        names: Sequence[str],
        request: SearchForm,
        at: Revision | None = None,
        *,
        creating: bool = False,
    ) -> Search:
        """Search these collections.

        With `creating`, faces are checked by the collection's quality gate, and each probe carries
        the reasons not to create a person.
        """
        started_s = time.perf_counter()
        at = at or read_revision(self._database)
        collections = [self._collections.named(name, at) for name in names]
        _require_same_model(collections)
        probes = self._probes(collections, request, creating=creating)
        is_picture = request.image is not None
        # A face may lose all candidates but one to the other faces of the picture, and the margin
        # of that one needs a rival.
        length = max(request.limit, len(probes) + 1 if is_picture else 2)
        ranking = self._rank(collections, request, probes, length, at)
        if is_picture:
            judgements = judge(ranking.lists)
        else:
            judgements = [judge([candidates])[0] for candidates in ranking.lists]
        answers = [
            _answer(request, probe, candidates, judgement)
            for probe, candidates, judgement in zip(probes, ranking.lists, judgements, strict=True)
        ]
        answer = SearchAnswer(
            probes=answers,
            searched=ranking.searched,
            seq=ranking.seq,
            thresholds=dict(ranking.thresholds),
            took_ms=round((time.perf_counter() - started_s) * 1000, 2),
        )
        return Search(collections, probes, answer)

    def _rank(
        self,
        collections: Sequence[CollectionRef],
        request: SearchForm,
        probes: Sequence[Probe],
        length: int,
        at: Revision,
    ) -> _Ranking:
        rows = np.stack([probe.template.vector for probe in probes])
        reached = [
            self._galleries.caught_up(each, request.min_seq, newest=at.feed) for each in collections
        ]
        # Over several collections a stranger may be like any person of all of them.
        together = sum(each.templates for each in collections)
        points = [self._points.of(each, searched=together) for each in collections]
        at_least = _least_of_interest(request, points)
        selections = self._selections(collections, request)
        by_collection: list[list[list[Listed]]] = []
        searched, now = 0, self._clock.now()
        for collection, point, state, selection in zip(
            collections, points, reached, selections, strict=True
        ):
            searched += len(state.gallery) if selection is None else len(selection)
            lists = rank_persons(
                self._persons.at(state.feed, collection),
                state.gallery,
                rows,
                length,
                now,
                among=selection,
                at_least=at_least,
                templates_a_person=collection.templates_a_person,
            )
            by_collection.append([_listed(collection, point, request, each) for each in lists])
        merged = by_collection[0]
        if len(by_collection) > 1:
            merged = [
                list(heapq.merge(*lists, key=lambda listed: -listed.candidate.similarity))[:length]
                for lists in zip(*by_collection, strict=True)
            ]
        thresholds = {
            collection.name: point.threshold if request.threshold is None else request.threshold
            for collection, point in zip(collections, points, strict=True)
        }
        return _Ranking(merged, searched, min(state.seq for state in reached), thresholds)

    def _selections(
        self, collections: Sequence[CollectionRef], request: SearchForm
    ) -> Sequence[NDArray[np.uint64] | None]:
        """For each collection the templates that groups and filter leave; None: all."""
        if request.groups is None and not request.filter:
            return [None] * len(collections)
        with self._database.read() as session:
            groups = None
            if request.groups is not None:
                groups = groups_of(session, request.groups, *collections)
            return [among(session, each, groups, request.filter) for each in collections]

    def _probes(
        self, collections: Sequence[CollectionRef], request: SearchForm, *, creating: bool
    ) -> list[Probe]:
        first = collections[0]
        if request.image is not None:
            return self._faces(first, request.image, every=request.detect_all, creating=creating)
        if request.templates is not None:
            return [
                Probe(template_of(sent.vector, sent.model_id, first)) for sent in request.templates
            ]
        return [Probe(self._enrolled(collections, request.template_id))]

    def _faces(
        self, collection: CollectionRef, picture: bytes, *, every: bool, creating: bool
    ) -> list[Probe]:
        """The probes of a picture: its largest face, or every face."""
        models = self._engines.of(collection)
        if not creating and not every:
            face, count = models.largest(picture, gate="doorway")
            detection = detection_of(face, count)
            return [Probe(embedded(face), picture, detection, face.quality, face.quality.reasons)]
        frame = (0, 0)
        if creating:
            faces, frame = models.judged(picture, gate=collection.policy.gate)
        else:
            faces = models.analyze(picture, gate="doorway", thorough=False)
        if not faces:
            raise NoFace("no face was found in the picture", reasons=["no_face"])
        probes = []
        for index, face in enumerate(faces if every else faces[:1]):
            against = list(face.quality.reasons)
            if creating:
                against += obstacles([face] if every else faces, frame)
            detection = detection_of(face, len(faces), index)
            probes.append(Probe(embedded(face), picture, detection, face.quality, against))
        return probes

    def _enrolled(
        self, collections: Sequence[CollectionRef], template_id: str | None
    ) -> FaceTemplate:
        """An enrolled template. Raises NotFound when none of the collections has it."""
        by_number = {each.number: each for each in collections}
        with self._database.read() as session:
            row = session.execute(
                TEMPLATES.add_columns(Template.model_id, Template.collection_number).where(
                    Template.id == template_id, Template.collection_number.in_(by_number)
                )
            ).one_or_none()
            if row is None:
                names = ", ".join(repr(each.name) for each in collections)
                raise NotFound(f"there is no template {template_id!r} in {names}")
            collection = by_number[row.collection_number]
            cipher = self._vault.cipher(session, collection)
        opened = cipher.open_vectors(row.model_id, [(str(template_id), row.vector)])
        rows = stored_rows(opened, collection.dimension)
        require_hashes(cipher, row.model_id, [row.id], [row.vector_hash], rows)
        return FaceTemplate(row.model_id, rows[0])


def _require_same_model(collections: Sequence[CollectionRef]) -> None:
    first = collections[0]
    for other in collections[1:]:
        if other.model_id != first.model_id:
            raise ModelMismatch(
                f"collection {first.name!r} holds templates of {first.model_id!r} and "
                f"{other.name!r} of {other.model_id!r}: they cannot be searched together"
            )


def _least_of_interest(request: SearchForm, points: Sequence[OperatingPoint]) -> float:
    """The similarity below which no candidate changes the result: galleries may leave them out.

    A threshold in the request cuts the lists, and only a rival within the margin below it can
    change a decision. Match probabilities weigh the whole list, so with them nothing is left out.
    """
    if request.threshold is None or any(point.calibration is not None for point in points):
        return -1.0
    return max(request.threshold - max(point.margin for point in points) - _ROUNDING, -1.0)


def _listed(
    collection: CollectionRef,
    point: OperatingPoint,
    request: SearchForm,
    candidates: Sequence[Candidate],
) -> list[Listed]:
    threshold = point.threshold if request.threshold is None else request.threshold
    return [
        Listed(candidate, threshold, point.margin, collection.name)
        for candidate in point.judged(candidates)
    ]


def _answer(
    request: SearchForm, probe: Probe, candidates: Sequence[Listed], judgement: Judgement
) -> ProbeAnswer:
    named = judgement.named
    return ProbeAnswer(
        detection=probe.detection,
        quality=probe.quality,
        candidates=[
            listed.candidate.view(rank, listed.collection)
            for rank, listed in enumerate(candidates[: request.limit], start=1)
            if request.threshold is None or listed.candidate.similarity >= request.threshold
        ],
        decision=judgement.decision,
        person=None if named is None else named.candidate.person,
        collection=None if named is None else named.collection,
    )
