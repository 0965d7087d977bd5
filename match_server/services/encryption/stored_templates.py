"""Reading stored templates as the rows of a matrix, without the damaged ones.

A disk, a manual change of the database, or a restore that mixed two states can damage a row. It is
left out, and must not prevent the search of the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Select, select

from match_server.db.database import Database
from match_server.db.tables import Collection, Template
from match_server.services.encryption.vault import Cipher, Vault
from shared.errors import Damaged, KeyMissing
from shared.wire.template_hash import Hashes, row_hashes

_FLOAT16_EXPONENT = 0x7C00  # all bits set: infinite or not a number
_AT_ONCE = 8192

TEMPLATES: Select[int, str, bytes, int | None] = select(
    Template.number, Template.id, Template.vector, Template.vector_hash
)
"""The columns that `read_templates` needs."""


@dataclass(frozen=True, slots=True)
class Readable:
    """The readable templates of some rows, and the damaged ones."""

    numbers: NDArray[np.uint64]  # (n,), in the order of the rows
    vectors: NDArray[np.float16]  # (n, dimension)
    hashes: Hashes  # (n,)
    damaged: Mapping[int, tuple[str, str]]  # by number: the template's id, and the problem


def read_templates(cipher: Cipher, model_id: str, dimension: int, rows: Sequence[Any]) -> Readable:
    """Read rows of `TEMPLATES` of one collection and model. Does not raise for a damaged row."""
    try:
        matrix, hashes = _matrix(cipher, model_id, dimension, rows)
        return Readable(_numbers(rows), matrix, hashes, {})
    except (Damaged, KeyMissing) as error:
        if len(rows) == 1:
            damaged = {rows[0].number: (rows[0].id, error.message)}
            nothing = np.empty(0, np.uint64)
            return Readable(nothing, np.empty((0, dimension), np.float16), nothing, damaged)
    halves = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    parts = [read_templates(cipher, model_id, dimension, half) for half in halves]
    return Readable(
        np.concatenate([part.numbers for part in parts]),
        np.concatenate([part.vectors for part in parts]),
        np.concatenate([part.hashes for part in parts]),
        {**parts[0].damaged, **parts[1].damaged},
    )


@dataclass(frozen=True, slots=True)
class DamagedTemplate:
    """A row that searches leave out."""

    collection: str
    template: str
    why: str


def damaged_templates(database: Database, vault: Vault) -> list[DamagedTemplate]:
    """All damaged rows of the collections that can be decrypted. Reads every template."""
    with database.read() as session:
        collections = session.scalars(select(Collection).order_by(Collection.number)).all()
    return [row for each in collections for row in _damaged_of(database, vault, each)]


def _damaged_of(database: Database, vault: Vault, collection: Collection) -> list[DamagedTemplate]:
    damaged: list[DamagedTemplate] = []
    templates = TEMPLATES.where(Template.collection_number == collection.number)
    after = 0
    with database.read(patient=True) as session:
        try:
            cipher = vault.cipher(session, collection)
        except (Damaged, KeyMissing):
            return []  # all of it cannot be read, which is reported elsewhere
        while rows := session.execute(
            templates.where(Template.number > after).order_by(Template.number).limit(_AT_ONCE)
        ).all():
            after = rows[-1].number
            read = read_templates(cipher, collection.model_id, collection.dimension, rows)
            damaged += [DamagedTemplate(collection.name, *row) for row in read.damaged.values()]
    return damaged


def require_hashes(
    cipher: Cipher,
    model_id: str,
    ids: Sequence[str],
    stored: Sequence[int | None],
    rows: NDArray[np.float16],
) -> Hashes:
    """The hashes of rows (n, d). Raises Damaged if one is not the hash stored with the row."""
    hashes = row_hashes(rows)
    places = [place for place, value in enumerate(stored) if value is not None]
    known = [value for value in stored if value is not None]
    expected = cipher.open_hashes(model_id, [ids[place] for place in places], known)
    wrong = np.flatnonzero(hashes[places] != expected)
    if wrong.shape[0]:
        raise Damaged(
            f"template {ids[places[wrong[0]]]}: its vector was changed after it was stored; bring "
            "it back from a backup, or delete it, and enroll its person again"
        )
    return hashes


def _matrix(
    cipher: Cipher, model_id: str, dimension: int, rows: Sequence[Any]
) -> tuple[NDArray[np.float16], Hashes]:
    """The vectors as rows, and their hashes. Raises Damaged, KeyMissing."""
    vectors = cipher.open_vectors(model_id, [(row.id, row.vector) for row in rows])
    for vector in vectors:
        if len(vector) != 2 * dimension:
            raise Damaged(f"it has {len(vector)} bytes, but a template has {2 * dimension}")
    matrix = np.frombuffer(b"".join(vectors), dtype="<f2").reshape(len(vectors), dimension)
    if not _finite(matrix):
        raise Damaged("it holds values that are not finite")
    ids, stored = [row.id for row in rows], [row.vector_hash for row in rows]
    return matrix, require_hashes(cipher, model_id, ids, stored, matrix)


def _finite(matrix: NDArray[np.float16]) -> bool:
    """As `np.isfinite(matrix).all()`, which is several times slower for float16."""
    bits = matrix.view("<u2") & np.uint16(_FLOAT16_EXPONENT)
    return not bool((bits == _FLOAT16_EXPONENT).any())


def _numbers(rows: Sequence[Any]) -> NDArray[np.uint64]:
    return np.array([row.number for row in rows], dtype=np.uint64)
