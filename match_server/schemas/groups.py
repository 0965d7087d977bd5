"""Groups: sets of persons of one collection."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from match_server.schemas.base import ApiModel, Metadata, Moment, Name, Paging, Text, Written

_MOST_AT_ONCE = 10_000

PersonIds = Annotated[tuple[Name, ...], Field(max_length=_MOST_AT_ONCE)]


class GroupCreate(ApiModel):
    collection: Name = Field(examples=["staff"])
    name: Text = Field(examples=["Night shift"], description="Unique in its collection.")
    id: Name | None = Field(
        default=None, description="Chosen by the client, unique in the server; else a UUIDv7."
    )
    metadata: Metadata = Field(default_factory=dict)


class GroupPatch(ApiModel):
    """Changes; fields that are not given stay. The collection of a group never changes."""

    name: Text | None = None
    metadata: Metadata | None = None


class GroupQuery(Paging):
    collection: Name | None = None
    q: str | None = Field(
        default=None, min_length=1, max_length=200, description="Part of the name."
    )
    person: Name | None = Field(default=None, description="Id of a person in the group.")


class GroupView(ApiModel):
    id: str
    collection: str
    name: str = Field(examples=["Night shift"])
    metadata: Metadata
    persons: int
    created_at: Moment


class GroupWritten(GroupView, Written):
    pass


class GroupErased(Written):
    group: str = Field(description="The group's id.")
    persons: int = Field(description="Persons that were in it; they stay in the collection.")


class MembersPut(ApiModel):
    """Persons to add to a group and to remove from it, in one step."""

    add: PersonIds = ()
    remove: PersonIds = Field(
        default=(), description="Persons who are not in the group, or do not exist, are ignored."
    )

    @model_validator(mode="after")
    def _not_both(self) -> Self:
        if not set(self.add).isdisjoint(self.remove):
            raise ValueError("a person stands in `add` and in `remove`")
        return self


class MembersWritten(GroupView, Written):
    added: int = Field(description="Persons who were not in the group before.")
    removed: int = Field(description="Persons who were in it before.")
