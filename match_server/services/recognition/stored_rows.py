"""Stored templates as arrays."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from match_server.db.tables import Collection, Person, Template
from match_server.services.collection_ref import CollectionRef
from match_server.services.encryption.vault import Cipher


def stored_rows(vectors: Sequence[bytes], dimension: int) -> NDArray[np.float16]:
    """Decrypted templates as rows (n, dimension), float16."""
    return np.frombuffer(b"".join(vectors), dtype="<f2").reshape(len(vectors), dimension)


def rows_of_person(
    session: Session, collection: Collection | CollectionRef, person: Person | None, cipher: Cipher
) -> NDArray[np.float32]:
    """The templates of a person as unit rows (n, dimension); without a person, no row."""
    if person is None:
        return np.empty((0, collection.dimension), np.float32)
    stored = session.execute(
        select(Template.id, Template.vector).where(Template.person_number == person.number)
    ).all()
    vectors = cipher.open_vectors(collection.model_id, [(row.id, row.vector) for row in stored])
    return stored_rows(vectors, collection.dimension).astype(np.float32)
