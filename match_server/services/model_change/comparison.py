"""Two models on the same faces: what a change of model would do, seen before it is made."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from match_server.calibration.grid import at_least, edges
from match_server.db.database import Database
from match_server.db.tables import SpareTemplate, Template
from match_server.evaluation.comparisons import Comparisons, compare
from match_server.evaluation.rates import d_prime
from match_server.services.collection_ref import scope_named
from match_server.services.encryption.vault import Cipher, Vault
from match_server.services.galleries.galleries import stored_rows
from match_server.services.lookups import batches, collection_named
from match_server.services.model_change.reembedding import both_models, change_of
from match_server.services.recognition.operating_point import OperatingPoints
from shared.errors import Unusable

_ROUNDING = 1e-6  # a step of the grid is found by its decimal, too
MOST_TEMPLATES = 10_000
"""Compared at most: 50 million pairs, some ten seconds."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One model, by the comparisons of templates of both. Rates are None without such pairs."""

    model_id: str
    genuine_mean: float | None
    genuine_sd: float | None
    impostor_mean: float | None
    impostor_sd: float | None
    d_prime: float | None
    first_right: float | None  # share of the mated whose most alike template is their own
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
    current: Judged  # at the collection's threshold
    other: Judged  # at the lowest threshold whose FMR is no higher


class ModelComparisons:
    """Compares a collection's model with the one that is prepared beside it."""

    def __init__(self, database: Database, vault: Vault, points: OperatingPoints) -> None:
        self._database = database
        self._points = points
        self._vault = vault

    def compare(self, name: str) -> Comparison:
        """Both models on those templates that there are of both.

        Of large collections whole persons are drawn at random (seeded). Raises NotFound when no
        change of model is under way, Unusable when nothing can be compared yet.
        """
        threshold = self._points.of(scope_named(self._database, name)).threshold
        with self._database.read() as session:
            owner = collection_named(session, name)
            other_id = change_of(session, owner).model_id
            ids = both_models(owner, other_id).with_only_columns(
                Template.id, Template.person_number
            )
            chosen = _whole_persons([(row.id, row.person_number) for row in session.execute(ids)])
            if not chosen:
                raise Unusable(
                    f"nothing of {name!r} can be compared: no template has a counterpart of "
                    f"{other_id!r} yet",
                    reasons=["no_template"],
                )
            cipher = self._vault.cipher(session, owner)
            old = _vectors(session, cipher, Template, owner.model_id, list(chosen))
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
            current=_judged(owner.model_id, before, threshold),
            other=_judged(other_id, after, threshold_for(after, fmr, threshold)),
        )


def _judged(model_id: str, compared: Comparisons, threshold: float) -> Judged:
    genuine, impostor = compared.genuine_moments, compared.impostor_moments
    fmr, fnmr = rates_at(compared, threshold)
    both = genuine.count > 1 and impostor.count > 1
    mated = ~np.isnan(compared.mated_best) & ~np.isnan(compared.impostor_best)
    right = compared.mated_best[mated] > compared.impostor_best[mated]
    return Judged(
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
    """Templates of a model, in the order of their ids given."""
    stored: dict[str, bytes] = {}
    for some in batches(ids):
        wanted = select(table.id, table.vector).where(table.id.in_(some))
        found = session.execute(wanted.where(table.model_id == model_id))
        stored.update({row.id: row.vector for row in found})
    opened = cipher.open_vectors(model_id, [(one, stored[one]) for one in ids])
    return stored_rows(opened, len(opened[0]) // 2)


def _whole_persons(rows: Sequence[tuple[str, int]]) -> dict[str, int]:
    """Templates of persons drawn at random, as many as may be compared, and whose they are."""
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
