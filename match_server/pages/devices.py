"""The pages about boxes: how they are, why nobody was recognised, and inviting a new one."""

import contextlib
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta

import segno
from flask import Blueprint, Request, g, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from match_server.api.auth import Gatekeeper
from match_server.api.client_connection import server_address
from match_server.api.errors import status_of
from match_server.container import Services
from match_server.schemas.devices import DeviceDetail, DeviceQuery, LedgerQuery
from match_server.services.audit.chain import Actor, act_as
from match_server.services.auth.keys import Permission
from shared.enrollment_code import Invitation, plain_code
from shared.errors import Conflict, MusterError, NotFound

_SHOWN = 50  # boxes on one page
_LEDGER_DAYS = 7
_WIDTH, _HEIGHT = 240.0, 40.0  # of a curve, in its own units


@dataclass(frozen=True, slots=True)
class Reason:
    """One bar of the ledger: how often, of all tracks."""

    text: str
    tracks: int
    share: float  # 0..1


@dataclass(frozen=True, slots=True)
class CameraLedger:
    """Why faces before one camera were not recognised, in the last seven days."""

    camera: str
    tracks: int
    with_probe: int
    reasons: list[Reason]  # most frequent first

    @property
    def share(self) -> float:
        return self.with_probe / self.tracks if self.tracks else 0.0


@dataclass(frozen=True, slots=True)
class Shown:
    """One box as the page shows it."""

    device: DeviceDetail
    ledger: list[CameraLedger]
    temperature: str  # points of a curve
    seen: str

    @property
    def in_trouble(self) -> bool:
        """Whether it said that something is wrong, with itself or with a camera."""
        health = self.device.health
        if health is None:
            return False
        lost = any(camera.state in ("stalled", "lost") for camera in health.cameras)
        return bool(health.problems) or lost or health.throttled is True


def add_device_pages(blueprint: Blueprint, services: Services, gatekeeper: Gatekeeper) -> None:
    """`/devices` and `/devices/<device>/invite`."""

    @blueprint.get("/devices")
    def devices() -> AnyResponse:
        visitor = gatekeeper.viewer(request)
        if visitor is None:
            return redirect(url_for("pages.login"))
        now = services.clock.now()
        asked = request.args.get("page", default=1, type=int)
        number = min(max(asked, 1), 1_000_000)
        listed = services.devices.page(DeviceQuery(size=_SHOWN, page=number))
        shown = []
        for one in listed.items:
            with contextlib.suppress(NotFound):  # forgotten since it was listed
                shown.append(_shown(services, one.name, now))
        shown.sort(key=lambda one: (not one.in_trouble, one.device.online, one.device.name))
        return make_response(
            render_template(
                "devices.html",
                boxes=shown,
                online=sum(one.device.online for one in shown),
                troubled=sum(one.in_trouble for one in shown),
                total=listed.total,
                number=number,
                pages=-(-listed.total // _SHOWN),
                now=now,
                by_key=visitor.key_id != "open-page",
            )
        )

    @blueprint.route("/devices/<device>/invite", methods=["GET", "POST"])
    def invite(device: str) -> AnyResponse:
        """A code and its QR picture, for an admin's key that is given for this one time."""
        if gatekeeper.viewer(request) is None:
            return redirect(url_for("pages.login"))
        values: dict[str, object] = {"device": device, "error": None, "made": None, "picture": None}
        status = 200
        if request.method == "POST":
            try:
                given = request.form.get("key", "").strip()
                admin = gatekeeper.admit_form(request, given, Permission.ADMINISTER)
                act_as(Actor(who=f"key {admin.key_id}", role=admin.role, request_id=g.request_id))
                address = services.settings.public_url or _address_of(request)
                made = services.device_codes.make(device)
            except MusterError as error:
                values["error"], status = error.message, status_of(error)
            else:
                told = made.invitation or Invitation(address, plain_code(made.code)).text()
                picture = segno.make(told, error="m", micro=False)
                values["made"] = made
                values["picture"] = picture.svg_inline(
                    scale=6, border=4, light="#fff", omitsize=True
                )
                values["server"] = Invitation.read(told).server
        return make_response(render_template("invite.html", **values), status)


def _address_of(asked: Request) -> str:
    """The address by which the request reached this machine.

    The name that a browser sends (`Host`) is not asked: a page of somebody else may have chosen it,
    and a box would then send its probes there. Raises Conflict where only a name would do.
    """
    if asked.scheme != "http" or "X-Forwarded-For" in asked.headers:
        raise Conflict(
            "boxes need the address by which they reach this server: set public_url "
            "(MUSTER_PUBLIC_URL) and start the server again"
        )
    host, port = server_address(asked.environ)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _shown(services: Services, name: str, now: datetime) -> Shown:
    device = services.devices.get(name)
    since = (now - timedelta(days=_LEDGER_DAYS)).date()
    days = services.ledgers.of(name, LedgerQuery(since=since)).items
    cameras: dict[str, Counter[str]] = {}
    tracks: Counter[str] = Counter()
    with_probe: Counter[str] = Counter()
    for day in days:
        tracks[day.camera] += day.tracks
        with_probe[day.camera] += day.with_probe
        cameras.setdefault(day.camera, Counter()).update(day.in_plain_terms)
    ledger = [
        CameraLedger(
            camera,
            tracks[camera],
            with_probe[camera],
            [Reason(text, n, n / max(tracks[camera], 1)) for text, n in reasons.most_common()],
        )
        for camera, reasons in sorted(cameras.items())
    ]
    temperatures = [one.temperature_c for one in device.history if one.temperature_c is not None]
    return Shown(device, ledger, _curve(temperatures), _ago(device.last_seen_at, now))


def _curve(values: list[float]) -> str:
    """Points of an SVG polyline, the first value left, 20 to 90 degrees from bottom to top."""
    if len(values) < 2:
        return ""
    step = _WIDTH / (len(values) - 1)
    heights = [_HEIGHT * (1 - (min(max(one, 20.0), 90.0) - 20.0) / 70.0) for one in values]
    return " ".join(f"{place * step:.1f},{height:.1f}" for place, height in enumerate(heights))


def _ago(moment: datetime | None, now: datetime) -> str:
    if moment is None:
        return "never"
    seconds = max(0.0, (now - moment).total_seconds())
    for limit, unit, text in ((90, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {text} ago"
    return f"{seconds / 86_400:.0f} days ago"
