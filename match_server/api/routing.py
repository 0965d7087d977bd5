"""An endpoint: path, permission, what comes in, what goes out. OpenAPI is made from the same."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Literal

from pydantic import BaseModel, JsonValue

from match_server.services.auth.keys import Permission

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


class Access(Enum):
    """How the audit log is told of a call that changes nothing."""

    EACH = auto()  # a line, before the answer
    GATHERED = auto()  # one line a minute of all such calls of the key


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One call of the contract.

    `handle` gets the path's values by name, `query` and `body` where they are declared, and
    answers a value of `answer` (or a finished response where `media_type` is not JSON).
    """

    method: Method
    path: str  # a Flask rule, e.g. "/v1/collections/<collection>"
    tag: str
    summary: str
    handle: Callable[..., Any]
    permission: Permission | None  # None: no key is needed
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    picture: bool = False  # the body may be multipart, and its parameters stand in the query
    answer: type[BaseModel] | None = None
    status: int = 200
    media_type: str = "application/json"
    errors: tuple[int, ...] = ()
    example: Mapping[str, JsonValue] = field(default_factory=dict)  # of the body
    also: Callable[[Any], Permission | None] = lambda body: None  # needed for this body besides
    raw_body: bool = False  # `handle` reads the body itself; `body` only documents it
    at_once: int = 0  # how many bodies may come as one list; 0: always one, and no list
    batch: bool = False  # body and answer are NDJSON, a line for each of many
    access: Access | None = None  # besides what the permission says; see `told`

    @property
    def name(self) -> str:
        """A unique name, e.g. `get_v1_collections_collection`."""
        words = self.path.replace("<", "").replace(">", "").replace(".", "_").strip("/")
        return f"{self.method.lower()}_{words.replace('/', '_') or 'root'}"

    @property
    def told(self) -> Access | None:
        """How the audit log is told when this only looks; None: it is not."""
        if self.access is not None:
            return self.access
        if self.permission is Permission.REFERENCES and self.method == "GET":
            return Access.EACH
        gathered = self.permission in (Permission.SEARCH, Permission.FOLLOW)
        return Access.GATHERED if gathered else None

    @property
    def changes(self) -> bool:
        """Whether the audit log is told of the call where its transaction tells nothing itself.

        What a box sends by itself (probes, health) is kept in rows of its own, and not told.
        """
        own = (Permission.SEARCH, Permission.PROBES)
        return self.method != "GET" and self.permission not in own
