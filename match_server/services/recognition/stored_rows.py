"""Stored templates as arrays."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from match_server.db.tables import Collection, Person, Template
from match_server.services.collection_ref import CollectionRef
from match_server.services.encryption.stored_templates import TEMPLATES, require_hashes
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
    stored = session.execute(TEMPLATES.where(Template.person_number == person.number)).all()
    vectors = cipher.open_vectors(collection.model_id, [(row.id, row.vector) for row in stored])
    rows = stored_rows(vectors, collection.dimension)
    ids, hashes = [row.id for row in stored], [row.vector_hash for row in stored]
    require_hashes(cipher, collection.model_id, ids, hashes, rows)
    return rows.astype(np.float32)
