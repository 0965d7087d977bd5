"""The pages about boxes: their state, why faces were not recognised, and inviting a new box."""

import contextlib
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta

from flask import Blueprint, Request, g, make_response, render_template, request
from werkzeug.wrappers import Response as AnyResponse

from match_server.api.auth import Gatekeeper
from match_server.api.client_connection import server_address
from match_server.api.errors import status_of
from match_server.container import Services
from match_server.pages.lists import page_count, page_number
from match_server.schemas.devices import DeviceDetail, DeviceQuery, LedgerQuery
from match_server.schemas.feed import FollowerQuery
from match_server.services.audit.chain import Actor, act_as
from match_server.services.auth.keys import Permission
from shared.enrollment_code import Invitation, plain_code
from shared.errors import Conflict, MusterError, NotFound

_SHOWN = 50  # boxes on one page
_LEDGER_DAYS = 7
_WIDTH, _HEIGHT = 240.0, 40.0  # of a curve, in its own units


@dataclass(frozen=True, slots=True)
class Reason:
    """A bar of the ledger: the number of tracks and their share."""

    text: str
    tracks: int
    share: float  # 0..1


@dataclass(frozen=True, slots=True)
class CameraLedger:
    """The reasons why faces in front of a camera were not recognised, in the last seven days."""

    camera: str
    tracks: int
    with_probe: int
    reasons: list[Reason]  # most frequent first

    @property
    def share(self) -> float:
        return self.with_probe / self.tracks if self.tracks else 0.0


@dataclass(frozen=True, slots=True)
class BoxView:
    """A box as the page shows it."""

    device: DeviceDetail
    ledger: list[CameraLedger]
    differences: list[str]  # of its galleries from the database
    temperature: str  # points of a curve
    seen: str

    @property
    def in_trouble(self) -> bool:
        """Whether it reports a problem of its own or of a camera, or a gallery of it differs."""
        health = self.device.health
        if self.differences:
            return True
        if health is None:
            return False
        lost = any(camera.state in ("stalled", "lost") for camera in health.cameras)
        return bool(health.problems) or lost or health.throttled is True


def add_device_pages(blueprint: Blueprint, services: Services, gatekeeper: Gatekeeper) -> None:
    """Adds `/devices` and `/devices/<device>/invite`."""

    @blueprint.get("/devices")
    def devices() -> AnyResponse:
        now = services.clock.now()
        number = page_number()
        listed = services.devices.page(DeviceQuery(size=_SHOWN, page=number))
        boxes = []
        for device in listed.items:
            with contextlib.suppress(NotFound):  # deleted since it was listed
                boxes.append(_view(services, device.name, now))
        boxes.sort(key=lambda box: (not box.in_trouble, box.device.online, box.device.name))
        return make_response(
            render_template(
                "devices.html",
                boxes=boxes,
                online=sum(box.device.online for box in boxes),
                troubled=sum(box.in_trouble for box in boxes),
                total=listed.total,
                number=number,
                pages=page_count(listed.total, _SHOWN),
                now=now,
            )
        )

    @blueprint.route("/devices/<device>/invite", methods=["GET", "POST"])
    def invite(device: str) -> AnyResponse:
        """Makes a code and its QR picture, with an admin's key that is used for this only."""
        values: dict[str, object] = {"device": device, "error": None, "made": None, "picture": None}
        status = 200
        if request.method == "POST":
            try:
                key = request.form.get("key", "").strip()
                admin = gatekeeper.admit_form(request, key, Permission.ADMINISTER)
                act_as(Actor(who=f"key {admin.key_id}", role=admin.role, request_id=g.request_id))
                address = services.settings.public_url or _address_of(request)
                made = services.device_codes.make(device)
            except MusterError as error:
                values["error"], status = error.message, status_of(error)
            else:
                text = made.invitation or Invitation(address, plain_code(made.code)).text()
                import segno  # loads much, and this page is seldom opened

                picture = segno.make(text, error="m", micro=False)
                values["made"] = made
                values["picture"] = picture.svg_inline(
                    scale=6, border=4, light="#fff", omitsize=True
                )
                values["server"] = Invitation.read(text).server
        return make_response(render_template("invite.html", **values), status)


def _address_of(page_request: Request) -> str:
    """Returns the address by which the request reached this machine.

    The name that a browser sends (`Host`) is not used: a page of another site may have chosen it,
    and a box would then send its probes there. Raises Conflict where an address is not enough.
    """
    if page_request.scheme != "http" or "X-Forwarded-For" in page_request.headers:
        raise Conflict(
            "boxes need the address by which they reach this server: set public_url "
            "(MUSTER_PUBLIC_URL) and start the server again"
        )
    host, port = server_address(page_request.environ)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _view(services: Services, name: str, now: datetime) -> BoxView:
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
    temperatures = [
        sample.temperature_c for sample in device.history if sample.temperature_c is not None
    ]
    followers = services.followers.page(FollowerQuery(device=name, size=1000)).items
    differences = [
        f"Gallery {row.collection} differs from the database: {row.differs}"
        for row in followers
        if row.differs is not None
    ]
    seen = _ago(device.last_seen_at, now)
    return BoxView(device, ledger, differences, _curve(temperatures), seen)


def _curve(values: list[float]) -> str:
    """Returns points of an SVG polyline: time to the right, 20 to 90 degrees upwards."""
    if len(values) < 2:
        return ""
    step = _WIDTH / (len(values) - 1)
    heights = [_HEIGHT * (1 - (min(max(value, 20.0), 90.0) - 20.0) / 70.0) for value in values]
    return " ".join(f"{place * step:.1f},{height:.1f}" for place, height in enumerate(heights))


def _ago(moment: datetime | None, now: datetime) -> str:
    if moment is None:
        return "never"
    seconds = max(0.0, (now - moment).total_seconds())
    for limit, unit, text in ((90, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {text} ago"
    return f"{seconds / 86_400:.0f} days ago"
