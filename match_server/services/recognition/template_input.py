"""Templates from clients, checked against their collection."""

import math
from collections.abc import Sequence

import numpy as np
from pydantic import ValidationError
from pydantic_core import SchemaValidator
from pydantic_core.core_schema import CoreConfig, bytes_schema

from match_server.db.tables import Collection
from match_server.services.collection_ref import CollectionRef
from shared.errors import MalformedInput, ModelMismatch, MusterError
from shared.wire.template import UNIT_TOLERANCE, Template, decode_template

_BASE64 = SchemaValidator(bytes_schema(), CoreConfig(val_json_bytes="base64"))
_SURELY_UNIT = UNIT_TOLERANCE - 1e-4  # a length in single precision is wrong by less


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
    model_id, length = collection.model_id, 4 * math.ceil(2 * collection.dimension / 3)
    decoded = [
        _decoded(vector, length) if model == model_id and isinstance(vector, str) else None
        for vector, model in vectors
    ]
    packed = np.frombuffer(b"".join(filter(None, decoded)), dtype="<f2")
    rows = packed.reshape(-1, collection.dimension).astype(np.float32)
    squares = np.einsum("ij,ij->i", rows, rows)
    unit = iter((np.abs(np.sqrt(squares) - 1.0) <= _SURELY_UNIT).tolist())  # false if not finite
    return [
        row if row is not None and next(unit) else _stored_form(vector, model, collection)
        for (vector, model), row in zip(vectors, decoded, strict=True)
    ]


def _decoded(vector: str, length: int) -> bytes | None:
    """The bytes of a vector in base64 of this length; None where it has to be looked at closely.

    Pydantic's decoder takes a third of the time of `binascii`. It also takes the other alphabet of
    base64, and escapes of JSON.
    """
    if len(vector) != length or "-" in vector or "_" in vector or "\\" in vector:
        return None
    try:
        row: bytes = _BASE64.validate_json(f'"{vector}"')
    except ValidationError:
        return None
    return row


def _stored_form(
    vector: str | list[float] | None, model_id: str | None, collection: Collection
) -> bytes | MusterError:
    try:
        template = template_of(vector, model_id, collection)
    except MusterError as error:
        return error
    return template.vector.astype(np.dtype("<f2")).tobytes()


def require_model(model_id: str, collection: Collection | CollectionRef) -> None:
    """Raises ModelMismatch unless the collection's templates are of this model."""
    if model_id != collection.model_id:
        raise ModelMismatch(
            f"collection {collection.name!r} holds templates of {collection.model_id!r}; "
            f"one of {model_id!r} cannot be compared with them",
            collection_model=collection.model_id,
            template_model=model_id,
        )
