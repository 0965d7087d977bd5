"""An endpoint: path, permission, what comes in, what goes out. OpenAPI is made from the same."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, JsonValue

from match_server.services.keys import Permission

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


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

    @property
    def name(self) -> str:
        """A unique name, e.g. `get_v1_collections_collection`."""
        words = self.path.replace("<", "").replace(">", "").replace(".", "_").strip("/")
        return f"{self.method.lower()}_{words.replace('/', '_') or 'root'}"
