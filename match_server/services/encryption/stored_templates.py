"""Stored templates as rows of a matrix; one that cannot be read is set aside, the others are used.

A row can be damaged by a disk, by hands in the database, or by a restore that mixed two states. It
must neither be searched nor keep anybody else from being found.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, select

from match_server.db.database import Database
from match_server.db.tables import Collection, Template
from match_server.services.encryption.vault import Cipher, Vault
from shared.errors import Damaged, KeyMissing

_FLOAT16_EXPONENT = 0x7C00  # all ones: infinite, or no number
_AT_ONCE = 8192

Stored = tuple[int, str, bytes]
"""Number, id and vector of a row of `templates`, as it is stored."""


@dataclass(frozen=True, slots=True)
class Readable:
    """What could be made of some rows."""

    numbers: NDArray[np.uint64]  # (n,), in the order given
    vectors: NDArray[np.float16]  # (n, dimension)
    damaged: Mapping[int, tuple[str, str]]  # by number: the template's id, and what is wrong


def read_templates(
    cipher: Cipher, model_id: str, dimension: int, rows: Sequence[Stored]
) -> Readable:
    """Open rows of one collection and model. Raises nothing for a row that is damaged."""
    try:
        opened = cipher.open_vectors(model_id, [(one, vector) for _, one, vector in rows])
        matrix = _matrix(opened, dimension)
    except (Damaged, KeyMissing):
        matrix = None
    if matrix is not None and _finite(matrix):
        return Readable(_numbers(rows), matrix, {})
    whole: list[Stored] = []
    damaged: dict[int, tuple[str, str]] = {}
    for number, template_id, stored in rows:
        try:
            whole.append(
                (number, template_id, _one(cipher, model_id, dimension, template_id, stored))
            )
        except (Damaged, KeyMissing) as error:
            damaged[number] = template_id, error.message
    vectors = [vector for _, _, vector in whole]
    joined = np.frombuffer(b"".join(vectors), dtype="<f2").reshape(len(vectors), dimension)
    return Readable(_numbers(whole), joined, damaged)


@dataclass(frozen=True, slots=True)
class DamagedTemplate:
    """A row that nobody can be found by."""

    collection: str
    template: str
    why: str


def damaged_templates(database: Database, vault: Vault) -> list[DamagedTemplate]:
    """All rows that cannot be read, of every collection whose key is given.

    Opens each template of encrypted collections; of the others it looks at the lengths alone, as
    nothing else shows that a plain row was changed.
    """
    with database.read() as session:
        owners = session.scalars(select(Collection).order_by(Collection.number)).all()
    return [found for owner in owners for found in _damaged_of(database, vault, owner)]


def _damaged_of(database: Database, vault: Vault, owner: Collection) -> list[DamagedTemplate]:
    found: list[DamagedTemplate] = []
    wanted = select(Template.number, Template.id, Template.vector).where(
        Template.collection_number == owner.number
    )
    if not owner.encrypted:
        wanted = wanted.where(func.length(Template.vector) != 2 * owner.dimension)
    after = 0
    with database.read(patient=True) as session:
        try:
            cipher = vault.cipher(session, owner)
        except (Damaged, KeyMissing):
            return []  # all of it is locked, which is said elsewhere
        while rows := session.execute(
            wanted.where(Template.number > after).order_by(Template.number).limit(_AT_ONCE)
        ).all():
            after = rows[-1].number
            stored = [(row.number, row.id, row.vector) for row in rows]
            read = read_templates(cipher, owner.model_id, owner.dimension, stored)
            found += [DamagedTemplate(owner.name, *what) for what in read.damaged.values()]
    return found


def _matrix(vectors: Sequence[bytes], dimension: int) -> NDArray[np.float16] | None:
    """The vectors as rows; None when one has another length."""
    if any(len(vector) != 2 * dimension for vector in vectors):
        return None
    return np.frombuffer(b"".join(vectors), dtype="<f2").reshape(len(vectors), dimension)


def _one(cipher: Cipher, model_id: str, dimension: int, template_id: str, stored: bytes) -> bytes:
    (vector,) = cipher.open_vectors(model_id, [(template_id, stored)])
    matrix = _matrix([vector], dimension)
    if matrix is None:
        raise Damaged(f"it has {len(vector)} bytes, and {2 * dimension} are a template")
    if not _finite(matrix):
        raise Damaged("it holds values that are no numbers")
    return vector


def _finite(matrix: NDArray[np.float16]) -> bool:
    """As `np.isfinite(matrix).all()`, several times faster for float16."""
    bits = matrix.view("<u2") & np.uint16(_FLOAT16_EXPONENT)
    return not bool((bits == _FLOAT16_EXPONENT).any())


def _numbers(rows: Sequence[Stored]) -> NDArray[np.uint64]:
    return np.array([number for number, _, _ in rows], dtype=np.uint64)
