"""Cookies of the pages: hidden from scripts and other sites, and for TLS only if the page is."""

from flask import request
from werkzeug.wrappers import Response


def set_cookie(response: Response, name: str, value: str, max_age_s: int) -> None:
    response.set_cookie(
        name,
        value,
        max_age=max_age_s,
        httponly=True,
        samesite="Strict",
        secure=request.is_secure,
    )


def delete_cookie(response: Response, name: str) -> None:
    response.delete_cookie(name, httponly=True, samesite="Strict")
