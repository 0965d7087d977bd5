"""Routes: functions whose decorator says how they are called and what they need.

The Flask views (`api.view`) and the OpenAPI document (`api.openapi`) are made from the same routes.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Literal, TypeVar, get_type_hints

from flask import Response
from pydantic import BaseModel, JsonValue

from match_server.schemas.base import PictureRequest
from match_server.services.auth.keys import Permission

JSON = "application/json"

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
Function = TypeVar("Function", bound=Callable[..., BaseModel | Response])


BodyPermission = Callable[[Any], Permission | None]
"""The permission that a body needs besides that of its route; None: no other."""


class AccessEntry(Enum):
    """How a call that only reads is written to the audit log."""

    EACH = auto()  # an entry for each call, before its response
    COUNTED = auto()  # one entry a minute for all such calls of a key


@dataclass(frozen=True, slots=True)
class RawBody:
    """A body that the function reads from the request itself; it is only documented here."""

    schema: type[BaseModel]
    media_type: str = JSON
    max_items: int = 0  # that may be sent as one JSON list; 0: no list


@dataclass(frozen=True, slots=True)
class Route:
    """A call of the API.

    `function` gets the values of the path by name, and `query` and `body` if it has parameters of
    these names. It returns a value of `response`, or a finished HTTP response.
    """

    method: Method
    path: str  # a Flask rule, e.g. "/v1/collections/<collection>"
    tag: str
    function: Callable[..., BaseModel | Response]
    permission: Permission | None  # None: no key is needed
    query: type[BaseModel] | None
    body: type[BaseModel] | None
    raw_body: RawBody | None
    response: type[BaseModel] | None
    status: int
    media_type: str  # of the response
    errors: tuple[int, ...]  # besides those that all calls of its kind may return
    example: Mapping[str, JsonValue]  # of the body
    access: AccessEntry | None  # None: by its permission, see `access_log`
    body_permission: BodyPermission | None

    @property
    def name(self) -> str:
        """The operation id: generated clients name their functions by it."""
        return self.function.__name__

    @property
    def takes_picture(self) -> bool:
        """Whether the body may be a form with a picture, and parameters stand in the query."""
        return self.body is not None and issubclass(self.body, PictureRequest)

    @property
    def action(self) -> str:
        """The call as it is named in the audit log."""
        return f"{self.method} {self.path}"


class Routes:
    """The routes of a subject, in the order of the OpenAPI document."""

    def __init__(self, tag: str) -> None:
        self._tag = tag
        self._routes: list[Route] = []

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes)

    def add(
        self,
        method: Method,
        path: str,
        permission: Permission | None,
        *,
        status: int = 200,
        errors: tuple[int, ...] = (),
        example: Mapping[str, JsonValue] | None = None,
        raw_body: RawBody | None = None,
        response: type[BaseModel] | None = None,
        media_type: str = JSON,
        access: AccessEntry | None = None,
        body_permission: BodyPermission | None = None,
    ) -> Callable[[Function], Function]:
        """Make a function a route; the function itself stays as it is.

        Its name is the operation id, its docstring the summary, and the types of `query`, `body`
        and the return value are the schemas. `response` is the schema for a function that returns
        a finished HTTP response. Raises TypeError where parameters and path differ.
        """

        def register(function: Function) -> Function:
            types = get_type_hints(function)
            returned = types.pop("return")
            query, body = types.pop("query", None), types.pop("body", None)
            if sorted(types) != sorted(re.findall(r"<(\w+)>", path)):
                raise TypeError(f"{function.__name__}: its parameters are not those of {path}")
            self._routes.append(
                Route(
                    method=method,
                    path=path,
                    tag=self._tag,
                    function=function,
                    permission=permission,
                    query=query,
                    body=body,
                    raw_body=raw_body,
                    response=response if returned is Response else returned,
                    status=status,
                    media_type=media_type,
                    errors=errors,
                    example=example or {},
                    access=access,
                    body_permission=body_permission,
                )
            )
            return function

        return register
