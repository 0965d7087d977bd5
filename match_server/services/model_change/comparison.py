"""Compares two models on the same faces, before a collection changes its model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from match_server.calibration.comparisons import Comparisons, compare, d_prime
from match_server.calibration.grid import at_least, edges
from match_server.db.tables import SpareTemplate, Template
from match_server.services.encryption.vault import Cipher
from match_server.services.lookups import batches, collection_named
from match_server.services.model_change.state import both_models, change_of
from match_server.services.recognition.context import Recognition
from match_server.services.recognition.stored_rows import stored_rows
from shared.errors import Unusable

_ROUNDING = 1e-6  # so that a threshold equal to a step of the grid selects that step
MOST_TEMPLATES = 10_000
"""The most templates that are compared: 50 million pairs, about ten seconds."""


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """The figures of one model, from its comparisons; None without the comparisons for it."""

    model_id: str
    genuine_mean: float | None
    genuine_sd: float | None
    impostor_mean: float | None
    impostor_sd: float | None
    d_prime: float | None
    first_right: (
        float | None
    )  # share of mated templates whose most similar template is of the same person
    threshold: float
    fmr: float | None  # at that threshold
    fnmr: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The model in use and the other one, on the same templates."""

    templates: int
    persons: int
    genuine: int  # comparisons
    impostor: int
    current: ModelFigures  # at the collection's threshold
    other: ModelFigures  # at the lowest threshold whose FMR is no higher


class ModelComparisons:
    """Compares a collection's model with the one that is prepared beside it."""

    def __init__(self, recognition: Recognition) -> None:
        self._database = recognition.database
        self._points = recognition.points
        self._vault = recognition.vault

    def compare(self, name: str) -> Comparison:
        """Compare both models on the templates that exist of both.

        From large collections whole persons are drawn at random (seeded). Raises NotFound when no
        change of model is under way, Unusable when nothing can be compared yet.
        """
        threshold = self._points.named(self._database, name).threshold
        with self._database.read() as session:
            collection = collection_named(session, name)
            other_id = change_of(session, collection).model_id
            ids = both_models(collection, other_id).with_only_columns(
                Template.id, Template.person_number
            )
            chosen = _whole_persons([(row.id, row.person_number) for row in session.execute(ids)])
            if not chosen:
                raise Unusable(
                    f"nothing of {name!r} can be compared: no template has a counterpart of "
                    f"{other_id!r} yet",
                    reasons=["no_template"],
                )
            cipher = self._vault.cipher(session, collection)
            old = _vectors(session, cipher, Template, collection.model_id, list(chosen))
            new = _vectors(session, cipher, SpareTemplate, other_id, list(chosen))
        _, persons = np.unique(list(chosen.values()), return_inverse=True)
        before = compare(old, persons.astype(np.int64))
        after = compare(new, persons.astype(np.int64))
        fmr, _ = rates_at(before, threshold)
        return Comparison(
            templates=before.pictures,
            persons=before.persons,
            genuine=before.genuine_moments.count,
            impostor=before.impostor_moments.count,
            current=_figures(collection.model_id, before, threshold),
            other=_figures(other_id, after, threshold_for(after, fmr, threshold)),
        )


def _figures(model_id: str, compared: Comparisons, threshold: float) -> ModelFigures:
    genuine, impostor = compared.genuine_moments, compared.impostor_moments
    fmr, fnmr = rates_at(compared, threshold)
    both = genuine.count > 1 and impostor.count > 1
    mated = ~np.isnan(compared.mated_best) & ~np.isnan(compared.impostor_best)
    right = compared.mated_best[mated] > compared.impostor_best[mated]
    return ModelFigures(
        model_id=model_id,
        genuine_mean=genuine.mean if genuine.count else None,
        genuine_sd=genuine.sd if genuine.count else None,
        impostor_mean=impostor.mean if impostor.count else None,
        impostor_sd=impostor.sd if impostor.count else None,
        d_prime=d_prime(genuine.mean, genuine.sd, impostor.mean, impostor.sd) if both else None,
        first_right=float(right.mean()) if right.size else None,
        threshold=threshold,
        fmr=fmr,
        fnmr=fnmr,
    )


def rates_at(compared: Comparisons, threshold: float) -> tuple[float | None, float | None]:
    """FMR and FNMR at the step of the grid at or below a threshold (steps of 0.0025)."""
    place = int(np.searchsorted(edges(), threshold + _ROUNDING, side="right")) - 1
    rates: list[float | None] = []
    for counts in (compared.impostor.sum(axis=(0, 1)), compared.genuine.sum(axis=0)):
        whole = float(counts.sum())
        rates.append(float(at_least(counts)[place]) / whole if whole else None)
    matches = rates[1]
    return rates[0], None if matches is None else 1.0 - matches


def threshold_for(compared: Comparisons, fmr: float | None, otherwise: float) -> float:
    """The lowest threshold whose FMR is no higher than `fmr`."""
    counts = compared.impostor.sum(axis=(0, 1))
    if fmr is None or not counts.sum():
        return otherwise
    first = int(np.argmax(at_least(counts) / counts.sum() <= fmr))
    return round(float(edges()[first]), 4)


def _vectors(
    session: Session,
    cipher: Cipher,
    table: type[Template] | type[SpareTemplate],
    model_id: str,
    ids: Sequence[str],
) -> NDArray[np.float16]:
    """Templates of a model, in the order of `ids`."""
    stored: dict[str, bytes] = {}
    for portion in batches(ids):
        statement = select(table.id, table.vector).where(table.id.in_(portion))
        rows = session.execute(statement.where(table.model_id == model_id))
        stored.update({row.id: row.vector for row in rows})
    opened = cipher.open_vectors(
        model_id, [(template_id, stored[template_id]) for template_id in ids]
    )
    return stored_rows(opened, len(opened[0]) // 2)


def _whole_persons(rows: Sequence[tuple[str, int]]) -> dict[str, int]:
    """Templates of persons drawn at random, at most MOST_TEMPLATES, each with its person."""
    by_person: dict[int, list[str]] = {}
    for template_id, person in rows:
        by_person.setdefault(person, []).append(template_id)
    persons = list(by_person)
    chosen: dict[str, int] = {}
    for place in np.random.default_rng(0).permutation(len(persons)):
        person = persons[place]
        if len(chosen) + len(by_person[person]) > MOST_TEMPLATES:
            break
        chosen.update(dict.fromkeys(by_person[person], person))
    return chosen
