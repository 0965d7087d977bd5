"""Templates: the features of a face, and how they travel and rest (little-endian float16)."""

import base64
import binascii
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.errors import MalformedInput

MAX_DIMENSION = 4096
UNIT_TOLERANCE = 5e-3
"""How far a stored vector's length may be from 1; float16 rounding stays below 1e-3."""


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """A finite unit vector of one model's feature space. It cannot be constructed otherwise.

    Raises MalformedInput when the vector is not one-dimensional, not finite or not of unit length.
    """

    model_id: str
    vector: NDArray[np.float32]  # (dimension,), unit length, read-only

    def __post_init__(self) -> None:
        vector = np.array(self.vector, dtype=np.float32)
        _require_unit(vector)
        vector.setflags(write=False)
        object.__setattr__(self, "vector", vector)

    @property
    def dimension(self) -> int:
        return int(self.vector.shape[0])


def unit_rows(features: NDArray[np.floating]) -> NDArray[np.float32]:
    """Features (n, d) scaled to unit rows, float32.

    Raises MalformedInput for a row that is zero or not finite: such features have no direction.
    """
    rows = np.asarray(features, dtype=np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or (norms < 1e-12).any():
        raise MalformedInput("features that are zero or not finite have no direction")
    unit: NDArray[np.float32] = (rows / norms).astype(np.float32)
    return unit


def encode_template(template: Template) -> str:
    """Base64 of the vector as little-endian float16 (1,024 bytes for 512 dimensions)."""
    return base64.b64encode(template.vector.astype("<f2").tobytes()).decode("ascii")


def decode_template(text: str, model_id: str) -> Template:
    """The inverse of `encode_template`, up to float16 rounding.

    Raises MalformedInput when the text is not base64 of a whole number of float16 values, or the
    vector is not a finite unit vector.
    """
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedInput("a template is base64 of little-endian float16 values") from error
    if not raw or len(raw) % 2 or len(raw) // 2 > MAX_DIMENSION:
        raise MalformedInput(
            f"a template of {len(raw)} bytes is no row of 1 to {MAX_DIMENSION} float16 values"
        )
    return Template(model_id, np.frombuffer(raw, dtype="<f2").astype(np.float32))


def _require_unit(vector: NDArray[np.float32]) -> None:
    if vector.ndim != 1 or not 0 < vector.shape[0] <= MAX_DIMENSION:
        raise MalformedInput(
            f"a template is one row of values, not an array of shape {vector.shape}"
        )
    values = vector.astype(np.float64)
    length = math.sqrt(np.dot(values, values))
    if abs(length - 1.0) <= UNIT_TOLERANCE:  # never so with a value that is not finite
        return
    if not np.isfinite(vector).all():
        raise MalformedInput("a template holds finite values only")
    raise MalformedInput(f"a template has unit length, this one has {length:.4f}: normalise it")
