"""Reading stored templates as the rows of a matrix, without the damaged ones.

A disk, a manual change of the database, or a restore that mixed two states can damage a row. It is
left out, and must not prevent the search of the others.
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

_FLOAT16_EXPONENT = 0x7C00  # all bits set: infinite or not a number
_AT_ONCE = 8192

Stored = tuple[int, str, bytes]
"""Number, id and stored vector of a row of `templates`."""


@dataclass(frozen=True, slots=True)
class Readable:
    """The readable templates of some rows, and the damaged ones."""

    numbers: NDArray[np.uint64]  # (n,), in the order of the rows
    vectors: NDArray[np.float16]  # (n, dimension)
    damaged: Mapping[int, tuple[str, str]]  # by number: the template's id, and the problem


def read_templates(
    cipher: Cipher, model_id: str, dimension: int, rows: Sequence[Stored]
) -> Readable:
    """Read rows of one collection and model. Does not raise for a damaged row."""
    try:
        opened = cipher.open_vectors(
            model_id, [(template_id, vector) for _, template_id, vector in rows]
        )
        matrix = _matrix(opened, dimension)
    except (Damaged, KeyMissing):
        matrix = None
    if matrix is not None and _finite(matrix):
        return Readable(_numbers(rows), matrix, {})
    readable: list[Stored] = []
    damaged: dict[int, tuple[str, str]] = {}
    for number, template_id, stored in rows:
        try:
            vector = _vector(cipher, model_id, dimension, template_id, stored)
            readable.append((number, template_id, vector))
        except (Damaged, KeyMissing) as error:
            damaged[number] = template_id, error.message
    vectors = [vector for _, _, vector in readable]
    joined = np.frombuffer(b"".join(vectors), dtype="<f2").reshape(len(vectors), dimension)
    return Readable(_numbers(readable), joined, damaged)


@dataclass(frozen=True, slots=True)
class DamagedTemplate:
    """A row that searches leave out."""

    collection: str
    template: str
    why: str


def damaged_templates(database: Database, vault: Vault) -> list[DamagedTemplate]:
    """All damaged rows of the collections that can be decrypted.

    Decrypts each template of encrypted collections. In other collections it checks the length only,
    because no other change of a row can be detected.
    """
    with database.read() as session:
        collections = session.scalars(select(Collection).order_by(Collection.number)).all()
    return [row for each in collections for row in _damaged_of(database, vault, each)]


def _damaged_of(database: Database, vault: Vault, collection: Collection) -> list[DamagedTemplate]:
    damaged: list[DamagedTemplate] = []
    templates = select(Template.number, Template.id, Template.vector).where(
        Template.collection_number == collection.number
    )
    if not collection.encrypted:
        templates = templates.where(func.length(Template.vector) != 2 * collection.dimension)
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
            stored = [(row.number, row.id, row.vector) for row in rows]
            read = read_templates(cipher, collection.model_id, collection.dimension, stored)
            damaged += [DamagedTemplate(collection.name, *row) for row in read.damaged.values()]
    return damaged


def _matrix(vectors: Sequence[bytes], dimension: int) -> NDArray[np.float16] | None:
    """The vectors as rows; None if one has another length."""
    if any(len(vector) != 2 * dimension for vector in vectors):
        return None
    return np.frombuffer(b"".join(vectors), dtype="<f2").reshape(len(vectors), dimension)


def _vector(
    cipher: Cipher, model_id: str, dimension: int, template_id: str, stored: bytes
) -> bytes:
    (vector,) = cipher.open_vectors(model_id, [(template_id, stored)])
    matrix = _matrix([vector], dimension)
    if matrix is None:
        raise Damaged(f"it has {len(vector)} bytes, but a template has {2 * dimension}")
    if not _finite(matrix):
        raise Damaged("it holds values that are not finite")
    return vector


def _finite(matrix: NDArray[np.float16]) -> bool:
    """As `np.isfinite(matrix).all()`, which is several times slower for float16."""
    bits = matrix.view("<u2") & np.uint16(_FLOAT16_EXPONENT)
    return not bool((bits == _FLOAT16_EXPONENT).any())


def _numbers(rows: Sequence[Stored]) -> NDArray[np.uint64]:
    return np.array([number for number, _, _ in rows], dtype=np.uint64)
