"""Signing in to the pages with a key, and signing out."""

from flask import Blueprint, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from match_server.api.auth import COOKIE, EDITING_COOKIE, Gatekeeper
from match_server.api.errors import status_of
from match_server.pages.cookies import delete_cookie, set_cookie
from match_server.pages.filters import as_sentence
from match_server.services.auth.page_sessions import SESSION_S
from shared.errors import Forbidden, RateLimited, Unauthenticated


def add_login(blueprint: Blueprint, gatekeeper: Gatekeeper) -> None:
    """Adds `/login` and `/logout`."""

    @blueprint.route("/login", methods=["GET", "POST"])
    def login() -> AnyResponse:
        if request.method == "GET":
            return make_response(render_template("login.html", error=None))
        try:
            session = gatekeeper.session_for(request, request.form.get("key", "").strip())
        except (Unauthenticated, Forbidden, RateLimited) as error:
            page = render_template("login.html", error=as_sentence(error))
            refused = make_response(page, status_of(error))
            if isinstance(error, RateLimited):
                refused.headers["Retry-After"] = str(error.details["retry_after_s"])
            return refused
        response = redirect(url_for("pages.live"), code=303)
        set_cookie(response, COOKIE, session, SESSION_S)
        return response

    @blueprint.post("/logout")
    def logout() -> AnyResponse:
        gatekeeper.sign_out(request)
        response = redirect(url_for("pages.login"), code=303)
        for cookie in (COOKIE, EDITING_COOKIE):
            delete_cookie(response, cookie)
        return response
