"""Liveness and readiness of the server."""

from typing import Literal

from match_server.schemas.base import ApiModel


class Alive(ApiModel):
    status: Literal["ok"] = "ok"
    version: str


class Check(ApiModel):
    name: str
    ok: bool
    message: str


class Ready(ApiModel):
    status: Literal["ready", "not_ready"]
    checks: list[Check]
