"""The audit log, and certificates of erasure."""

from typing import Literal

from pydantic import Field, JsonValue

from match_server.schemas.base import ApiModel, Moment, Name, Paging


class AuditQuery(Paging):
    """Filters of the audit log; entries match all of them."""

    actor: str | None = Field(
        default=None, min_length=1, max_length=80, examples=["key 0a1b2c3d4e5f"]
    )
    action: str | None = Field(default=None, min_length=1, max_length=80)
    subject: str | None = Field(
        default=None, min_length=1, max_length=200, description="Id of the object of the entry."
    )
    person: Name | None = Field(
        default=None,
        description="Id of the person of the entry; give `collection` too where several have it.",
    )
    collection: Name | None = Field(default=None, description="Name of a collection.")
    request_id: str | None = Field(default=None, min_length=1, max_length=64)
    since: Moment | None = None
    until: Moment | None = None


class AuditEntryView(ApiModel):
    """An entry of the audit log; the entries form a hash chain."""

    number: int = Field(description="1, 2, 3 … without gaps.")
    at: Moment
    actor: str = Field(examples=["key 0a1b2c3d4e5f"])
    role: str | None = Field(description="Of the key, at that time.")
    action: str = Field(examples=["person_erased", "GET /v1/images/<image>/content"])
    collection: str | None = Field(
        description="Its present name; null: it was erased, or there is none."
    )
    subject: str | None
    person: str | None
    details: dict[str, JsonValue]
    request_id: str | None
    hash: str = Field(description="SHA-256 (hex) over this entry and the hash of the entry before.")


class Anchor(ApiModel):
    """The last entry of the chain. A copy elsewhere proves later that no entry was changed."""

    number: int = Field(ge=0)
    hash: str = Field(pattern="^[0-9a-f]{64}$")

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}"


class AuditVerified(ApiModel):
    """The result of verifying the chain."""

    entries: int = Field(description="Entries that were checked.")
    start: Anchor = Field(
        description="The entry before the first of them: the last entry that retention deleted; 0: "
        "no entry was deleted."
    )
    certificates: int = Field(description="Certificates of erasure that were compared with it.")
    head: Anchor
    broken_at: int | None = Field(description="Number of the first entry that is wrong.")
    problem: str | None


class HashedThing(ApiModel):
    """An erased object: its id, and the SHA-256 (hex) of its bytes."""

    id: str
    sha256: str


class ErasedThings(ApiModel):
    """What was erased with a person."""

    templates: list[HashedThing]
    images: list[HashedThing] = Field(description="Pictures that the person was enrolled from.")
    photos: int = Field(description="Of these pictures, those that had been kept as files.")
    snapshots: int = Field(description="Thumbnails of sightings.")
    events: int = Field(description="Sightings that no longer name the person.")
    candidates: int = Field(description="Entries in candidate lists of sightings.")
    probes: int = Field(description="Probes that no longer point to the person.")
    groups: int
    metadata_fields: int


class DeclaredBackup(ApiModel):
    """A backup that the operator declared; the person is in it until it is deleted."""

    name: str
    until: Moment


class Certificate(ApiModel):
    """What was erased, and what the server cannot reach. It never changes."""

    id: str
    at: Moment
    actor: str
    role: str | None
    request_id: str | None
    person: str = Field(description="The person's id. The name is gone.")
    collection_number: int
    seq: int = Field(description="Number of the erasure in the change feed.")
    epoch: str | None = Field(
        default=None,
        description="Epoch of the feed that the number is of; older certificates have none.",
    )
    removed: ErasedThings
    backups: list[DeclaredBackup]
    limits: list[str] = Field(description="What this server cannot reach, in words.")


class Waiting(ApiModel):
    """A place that may still hold data of the person."""

    who: Literal["files", "segments", "database", "server", "device"]
    name: str | None = None
    what: str


class ErasureView(ApiModel):
    """A certificate, and whether the person is erased everywhere by now."""

    state: Literal["pending", "complete"]
    completed_at: Moment | None
    waiting: list[Waiting]
    certificate: Certificate
    sha256: str = Field(description="Of the certificate as canonical JSON; the audit log has it.")
    audit: Anchor | None = Field(description="The entry of the audit log with `sha256`.")


class ErasureQuery(Paging):
    person: Name | None = Field(
        default=None, description="Give `collection` too where several have that id."
    )
    collection: Name | None = Field(default=None, description="Name of a collection.")
    state: Literal["pending", "complete"] | None = None
