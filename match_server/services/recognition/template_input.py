"""Templates from clients, checked against their collection."""

import base64
import contextlib
from collections.abc import Sequence

import numpy as np

from match_server.db.tables import Collection
from match_server.services.collection_ref import CollectionRef
from shared.errors import MalformedInput, ModelMismatch, MusterError
from shared.wire.template import UNIT_TOLERANCE, Template, decode_template


def template_of(
    vector: str | list[float] | None, model_id: str | None, collection: Collection | CollectionRef
) -> Template:
    """The template that a client sent: base64 of float16, or numbers.

    Raises ModelMismatch for another model than the collection's; MalformedInput when it is not
    finite, not of unit length or not of the collection's dimension. A vector that is not of unit
    length is refused, not normalised: it is most often not a template of this model.
    """
    if vector is None or model_id is None:
        raise MalformedInput("`template` and `model_id` go together")
    require_model(model_id, collection)
    template = read_vector(vector, model_id)
    if template.dimension != collection.dimension:
        raise MalformedInput(
            f"a template of {model_id!r} has {collection.dimension} values, "
            f"this one has {template.dimension}"
        )
    return template


def read_vector(vector: str | list[float], model_id: str) -> Template:
    """A template from base64 or from numbers. Raises MalformedInput."""
    if isinstance(vector, str):
        return decode_template(vector, model_id)
    # Through float16, as it is stored, so that searches and storage agree.
    with np.errstate(over="ignore"):
        stored = np.array(vector, dtype=np.float64).astype(np.float16)
    return Template(model_id, stored.astype(np.float32))


def stored_forms(
    vectors: Sequence[tuple[str | list[float] | None, str | None]], collection: Collection
) -> list[bytes | MusterError]:
    """Many (vector, model_id) in their stored form, little-endian float16, or the error of each.

    The checks are those of `template_of`; base64 vectors are checked all at once.
    """
    row_bytes = 2 * collection.dimension
    raw: list[bytes | None] = []
    for vector, model_id in vectors:
        decoded = None
        if isinstance(vector, str) and model_id == collection.model_id:
            with contextlib.suppress(ValueError):
                decoded = base64.b64decode(vector, validate=True)
        raw.append(decoded if decoded is not None and len(decoded) == row_bytes else None)
    packed = np.frombuffer(b"".join(row for row in raw if row is not None), dtype="<f2")
    rows = packed.reshape(-1, collection.dimension).astype(np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    unit = iter((np.abs(lengths - 1.0) <= UNIT_TOLERANCE).tolist())  # false where not finite
    valid = [row is not None and next(unit) for row in raw]
    forms: list[bytes | MusterError] = []
    for (vector, model_id), row, is_unit in zip(vectors, raw, valid, strict=True):
        if row is not None and is_unit:
            forms.append(row)
            continue
        try:
            template = template_of(vector, model_id, collection)
        except MusterError as error:
            forms.append(error)
        else:
            forms.append(template.vector.astype(np.dtype("<f2")).tobytes())
    return forms


def require_model(model_id: str, collection: Collection | CollectionRef) -> None:
    """Raises ModelMismatch unless the collection's templates are of this model."""
    if model_id != collection.model_id:
        raise ModelMismatch(
            f"collection {collection.name!r} holds templates of {collection.model_id!r}; "
            f"one of {model_id!r} cannot be compared with them",
            collection_model=collection.model_id,
            template_model=model_id,
        )
