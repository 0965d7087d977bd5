"""The base of all that box and server say to each other, and the rule for text in it."""

from typing import Final, Self

from pydantic import BaseModel, ConfigDict, model_validator

_NUL: Final = "\x00"
NO_NUL: Final = "text may not hold NUL characters (U+0000)"
"""PostgreSQL keeps none. Lone surrogates, the other thing that it refuses, no `str` field takes."""


class WireModel(BaseModel):
    """Unknown fields are refused, values never change, numbers are finite, text can be stored."""

    # A schema is built at its first use: a process uses few of them.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)

    @model_validator(mode="after")
    def _text_can_be_stored(self) -> Self:
        if any(holds_nul(value) for value in self.__dict__.values()):
            raise ValueError(NO_NUL)
        return self


def holds_nul(value: object) -> bool:
    """Whether a text in `value`, a key or a value at any depth, holds a NUL character."""
    if isinstance(value, str):
        return _NUL in value
    if isinstance(value, dict):
        return any(holds_nul(key) or holds_nul(one) for key, one in value.items())
    return isinstance(value, list | tuple) and any(holds_nul(one) for one in value)
