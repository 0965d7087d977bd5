"""Cookies of the pages: out of reach of scripts and of other sites, over TLS only where it is."""

from flask import request
from werkzeug.wrappers import Response


def give_cookie(response: Response, name: str, value: str, max_age_s: int) -> None:
    response.set_cookie(
        name,
        value,
        max_age=max_age_s,
        httponly=True,
        samesite="Strict",
        secure=request.is_secure,
    )


def take_cookie(response: Response, name: str) -> None:
    response.delete_cookie(name, httponly=True, samesite="Strict")
