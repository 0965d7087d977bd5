"""Templates as clients send them, checked against the collection that they are for."""

import base64
import contextlib
from collections.abc import Sequence

import numpy as np

from match_server.db.tables import Collection
from match_server.services.collection_ref import Scope
from shared.errors import MalformedInput, ModelMismatch, MusterError
from shared.wire.template import UNIT_TOLERANCE, Template, decode_template


def template_of(
    vector: str | list[float] | None, model_id: str | None, collection: Collection | Scope
) -> Template:
    """The template that a client sent: base64 of float16, or numbers.

    Raises ModelMismatch for another model than the collection's; MalformedInput when it is not
    finite, not of unit length or not of the collection's dimension. A vector that is not of unit
    length is refused rather than normalised: it is most often not a template of this model.
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
    """A template in either of its written forms. Raises MalformedInput."""
    if isinstance(vector, str):
        return decode_template(vector, model_id)
    # Through float16, as it will rest: what is searched is what was stored.
    with np.errstate(over="ignore"):
        stored = np.array(vector, dtype=np.float64).astype(np.float16)
    return Template(model_id, stored.astype(np.float32))


def stored_forms(
    given: Sequence[tuple[str | list[float] | None, str | None]], collection: Collection
) -> list[bytes | MusterError]:
    """Many (vector, model_id) as they are stored: little-endian float16, or why not.

    The same checks as `template_of`, of those that come as base64 all at once.
    """
    row_bytes = 2 * collection.dimension
    raw: list[bytes | None] = []
    for vector, model_id in given:
        decoded = None
        if isinstance(vector, str) and model_id == collection.model_id:
            with contextlib.suppress(ValueError):
                decoded = base64.b64decode(vector, validate=True)
        raw.append(decoded if decoded is not None and len(decoded) == row_bytes else None)
    packed = np.frombuffer(b"".join(one for one in raw if one is not None), dtype="<f2")
    rows = packed.reshape(-1, collection.dimension).astype(np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    unit = iter((np.abs(lengths - 1.0) <= UNIT_TOLERANCE).tolist())  # false where not finite
    good = [one is not None and next(unit) for one in raw]
    answer: list[bytes | MusterError] = []
    for (vector, model_id), one, is_unit in zip(given, raw, good, strict=True):
        if one is not None and is_unit:
            answer.append(one)
            continue
        try:
            template = template_of(vector, model_id, collection)
        except MusterError as error:
            answer.append(error)
        else:
            answer.append(template.vector.astype(np.dtype("<f2")).tobytes())
    return answer


def require_model(model_id: str, collection: Collection | Scope) -> None:
    """Raises ModelMismatch unless the collection's templates are of this model."""
    if model_id != collection.model_id:
        raise ModelMismatch(
            f"collection {collection.name!r} holds templates of {collection.model_id!r}; "
            f"one of {model_id!r} cannot be compared with them",
            collection_model=collection.model_id,
            template_model=model_id,
        )
