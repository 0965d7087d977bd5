"""Filters of searches: groups and conditions on persons."""

from typing import Annotated, Literal, Self

from pydantic import Field, StrictBool, model_validator

from match_server.schemas.base import ApiModel, Name

PREFIX = "metadata."
FIELD_CHARACTERS = 200
"""The searchable length of a text in metadata, and of the path to it."""

# One character shorter than stored texts, so that no value equals a text that was cut off.
_Value = Annotated[str, Field(max_length=FIELD_CHARACTERS - 1)]
Scalar = StrictBool | float | _Value


class Condition(ApiModel):
    """A condition on a person. A list in metadata matches if one of its elements does."""

    field: str = Field(
        pattern=r"^(id|name|external_id|metadata\..{1,200})$",
        description="`id`, `name`, `external_id`, or `metadata.` and the path to a value.",
        examples=["metadata.floor"],
    )
    op: Literal["eq", "in", "nin", "gte", "lte"] = Field(
        description="`nin` also matches persons without the field; texts compare by code point."
    )
    value: Scalar | Annotated[tuple[Scalar, ...], Field(min_length=1, max_length=1000)]

    @model_validator(mode="after")
    def _value_suits_op(self) -> Self:
        if isinstance(self.value, tuple) != (self.op in ("in", "nin")):
            raise ValueError("`in` and `nin` take a list of values, the others take one value")
        if self.op in ("gte", "lte") and isinstance(self.value, bool):
            raise ValueError("true and false have no order")
        if not self.field.startswith(PREFIX) and not all(
            isinstance(value, str) for value in self.values
        ):
            raise ValueError(f"`{self.field}` is a text, so it is compared with texts")
        return self

    @property
    def values(self) -> tuple[Scalar, ...]:
        return self.value if isinstance(self.value, tuple) else (self.value,)


Names = Annotated[tuple[Name, ...], Field(min_length=1, max_length=100)]
Conditions = Annotated[tuple[Condition, ...], Field(max_length=20)]
