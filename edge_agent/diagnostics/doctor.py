"""The doctor: what is wrong with this box, and what to do about it."""

import errno
import queue
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from edge_agent.capture.camera import slow_start_advice
from edge_agent.capture.first_frame import first_picture, waits_for_keyframe
from edge_agent.capture.source import is_live
from edge_agent.config.camera import CameraSettings
from edge_agent.config.settings import AgentSettings, BrokerSettings, ServerSettings
from edge_agent.fleet.remote_config import Configurations
from models.packs.store import installed
from shared.checks import Check
from shared.clock import SystemClock
from shared.commands import shown
from shared.errors import MusterError, SourceError, Unauthenticated, Unavailable
from shared.unreachable import why_unreachable
from shared.wire.topics import DeviceTopics

if TYPE_CHECKING:
    import requests

_CAMERA_S: Final = 12.0
_SLOW_S: Final = 6.0
_ANSWER_S: Final = 5.0
_CONTENT: Final = 2.0  # standard deviation of a picture's values, below which it shows nothing
_TRUST_SERVER: Final = (
    "set server.ca_file to the authority that signed it, or enroll again by the QR picture"
)
_TRUST_BROKER: Final = "set broker.ca_file to the authority that signed it"
_NO_PROBE: Final = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)
_DATE_STEP_S: Final = 1.0  # the header tells whole seconds


def examine(settings: AgentSettings) -> Iterator[Check]:
    """Looks at one thing after the other; never raises for what it finds."""
    for camera in settings.cameras:
        yield _camera(camera)
    yield from _machine(settings)
    yield _models(settings)
    yield _clock()
    yield _disk(settings)
    if settings.server is not None:
        yield from _server(settings, settings.server)
    if settings.broker is not None:
        yield _broker(settings, settings.broker)
    if settings.gallery.mode != "off":
        from edge_agent.diagnostics.gallery_check import examine_galleries

        yield from examine_galleries(settings, SystemClock())
    if settings.server is None and settings.broker is None:
        yield Check(
            "delivery", "doubtful", "no way to a server", "add a section [server] or [broker]"
        )


def _camera(camera: CameraSettings) -> Check:
    what = f"camera {camera.name}"
    began_s = time.monotonic()
    try:
        picture = first_picture(camera, _CAMERA_S)
        took_s = time.monotonic() - began_s
        if camera.source.startswith("rpicam:"):
            _require_row_length(camera)
    except MusterError as error:
        return Check(what, "bad", error.message)
    height, width = picture.shape[:2]
    kind = "live" if is_live(camera.source) else "a recording"
    if float(picture.std()) < _CONTENT:
        advice = "is the lens covered, or the room dark?"
        return Check(what, "doubtful", "gives pictures without content", advice)
    if waits_for_keyframe(camera) and took_s > _SLOW_S:
        found = f"{width} × {height}, {kind}; {slow_start_advice(took_s)}"
        return Check(what, "doubtful", found)
    return Check(what, "well", f"{width} × {height}, {kind}")


def _require_row_length(camera: CameraSettings) -> None:
    """Raises SourceError where a Raspberry Pi camera pads rows that the agent reads unpadded."""
    from edge_agent.capture.rpicam_source import (
        DEFAULT_SIZE,
        expects_no_padding,
        measured_row_bytes,
    )

    width, height = camera.size or DEFAULT_SIZE
    row_bytes = measured_row_bytes(camera.source, (width, height))
    if expects_no_padding(width) and row_bytes != width:
        raise SourceError(
            f"its rows have {row_bytes} bytes instead of {width}, so pictures are garbled: choose "
            f"width = {row_bytes}"
        )


def _models(settings: AgentSettings) -> Check:
    from edge_agent.fleet.model_packs import names_of, prove, require_expected
    from models.face_models import open_models
    from models.packs.store import require

    wanted = settings.models
    for name in names_of(wanted):
        try:
            problems = require(name).problems()
        except MusterError as error:
            return Check("models", "bad", error.message)
        if problems:
            pull = shown(f"face-models pull {name}")
            advice = f"the agent fetches it again when it starts; or: {pull}"
            return Check("models", "bad", f"{name} is damaged: {'; '.join(problems)}", advice)
    try:
        require_expected(wanted)
    except MusterError as error:
        advice = "install the version that server and box agreed on, or change embedder_sha256"
        return Check("models", "bad", error.message, advice)
    try:
        models = open_models(wanted.pack, detector=wanted.detector, closer=wanted.closer)
        prove(models)
    except MusterError as error:
        return Check("models", "bad", error.message, shown(f"face-models pull {wanted.pack}"))
    return Check("models", "well", f"{models.model_id}, {models.dimension} values a template")


def _machine(settings: AgentSettings) -> Iterator[Check]:
    """Heat, and weak power, which is the commonest ill of a Raspberry Pi."""
    from edge_agent.fleet.hardware import MachineSensors

    readings = MachineSensors(settings.state_dir).read()
    found = (
        "says nothing of its temperature"
        if readings.temperature_c is None
        else f"{readings.temperature_c:.0f} °C"
    )
    if readings.throttled:
        advice = "a stronger power supply, a heat sink or a fan"
        yield Check("machine", "doubtful", f"{found}, its processor is slowed now", advice)
    elif readings.temperature_c is not None and readings.temperature_c >= settings.fleet.hot_c:
        advice = "a heat sink or a fan; until then the agent does without something"
        yield Check("machine", "doubtful", found, advice)
    else:
        yield Check("machine", "well", found)


def configuration(configurations: Configurations) -> Check:
    """What became of the newest configuration that the server wanted."""
    kept = configurations.kept
    what, running = "configuration", configurations.running.revision
    if kept.last.revision == 0:
        return Check(what, "well", "the box's own file; the server has wanted nothing else")
    if kept.state in ("refused", "rolled_back"):
        how = "was refused" if kept.state == "refused" else "was undone"
        found = f"revision {kept.last.revision} {how}: {kept.message}"
        advice = f"it runs with revision {running}; put it right on the server"
        return Check(what, "doubtful", found, advice)
    state = "on trial" if kept.state == "trying" else "in effect"
    return Check(what, "well", f"revision {running} of the server is {state}")


def _clock() -> Check:
    """Whether the system says that its clock is kept by NTP."""
    program = shutil.which("timedatectl")
    now = f"{SystemClock().now():%Y-%m-%d %H:%M:%S} UTC"
    if program is None:
        return Check("clock", "well", f"{now} (nothing here says whether it is kept)")
    told = subprocess.run(
        [program, "show", "--property=NTPSynchronized", "--value"],
        capture_output=True,
        text=True,
        timeout=_ANSWER_S,
        check=False,
    )
    if told.stdout.strip() == "no":
        advice = "sudo timedatectl set-ntp true; times of events are wrong until it is kept"
        return Check("clock", "doubtful", f"{now}, not kept by NTP", advice)
    return Check("clock", "well", now)


def _disk(settings: AgentSettings) -> Check:
    folder = settings.state_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".doctor"
        probe.write_bytes(b"muster")
        probe.unlink()
        free_mib = shutil.disk_usage(folder).free // 2**20
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "free some space" if full else "set state_dir to a folder that this user may write"
        return Check("outbox", "bad", f"{folder}: {error}", advice)
    if free_mib < settings.outbox.max_mib:
        return Check(
            "outbox",
            "doubtful",
            f"{folder} has {free_mib} MiB free, the outbox may need {settings.outbox.max_mib}",
            "free some space, or make outbox.max_mib smaller",
        )
    return Check("outbox", "well", f"{folder}, {free_mib} MiB free")


def _server(settings: AgentSettings, server: ServerSettings) -> Iterator[Check]:
    """Asks for the server's health, compares the clocks, then tries the key with no probe."""
    import requests

    base = server.url.rstrip("/")
    with requests.Session() as session:
        ask = _Asking(session, base, True if server.ca_file is None else str(server.ca_file))
        try:
            health = ask.get("/readyz")
        except (requests.RequestException, OSError) as error:
            why = why_unreachable(error, trust=_TRUST_SERVER, plain="http://")
            found = f"{base} cannot be reached: {why.found}"
            yield Check("server", "bad", found, why.advice)
            return
        yield from _clock_beside(health.headers.get("Date"), settings.fleet.clock_off_s)
        if health.status_code == HTTPStatus.NOT_FOUND:
            advice = "set server.url to where match-server itself answers"
            yield Check("server", "bad", f"{base} is another server", advice)
            return
        if health.ok:
            yield Check("server", "well", f"{base} is ready")
        else:
            advice = "`match-server doctor` on it says why"
            yield Check("server", "bad", f"{base} answers {health.status_code}", advice)
        try:
            yield from _key(settings, server, ask)
        except (requests.RequestException, OSError) as error:
            why = why_unreachable(error, trust=_TRUST_SERVER, plain="http://")
            yield Check("key", "bad", f"could not be tried: {why.found}", why.advice)


@dataclass(frozen=True, slots=True)
class _Asking:
    """Calls to one server."""

    session: "requests.Session"
    base: str
    trust: bool | str

    def get(self, path: str, key: str | None = None) -> "requests.Response":
        return self._call("GET", path, key)

    def post(self, path: str, key: str, body: object) -> "requests.Response":
        return self._call("POST", path, key, body)

    def _call(
        self, method: str, path: str, key: str | None, body: object = None
    ) -> "requests.Response":
        return self.session.request(
            method,
            f"{self.base}{path}",
            json=body,
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
            timeout=_ANSWER_S,
            verify=self.trust,
            allow_redirects=False,
        )


def _key(settings: AgentSettings, server: ServerSettings, ask: _Asking) -> Iterator[Check]:
    """Whether the key may send probes, whether it is this box's own, and which model they need."""
    enroll = (
        f"match-server device code --device {settings.device}, and then on this box: "
        f"edge-agent enroll-device --server {ask.base} CODE"
    )
    try:
        key = server.key()
    except MusterError as error:
        yield Check("key", "bad", error.message, enroll)
        return
    empty = ask.post("/v1/probes", key, [])
    if empty.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        said = "does not know it, or it was revoked"
        if empty.status_code == HTTPStatus.FORBIDDEN:
            said = "knows it, but it may not send probes"
        yield Check("key", "bad", f"the server {said} ({empty.status_code})", enroll)
        return
    # No probe is not a list of probes.
    if not (empty.ok or empty.status_code in _NO_PROBE):
        advice = "try again; `match-server doctor` on the server says how it is"
        yield Check("key", "doubtful", f"the server answers {empty.status_code}", advice)
        return
    # A key that may send probes may still be another box's: asked by what only its own box may.
    own = ask.get(f"/v1/devices/{settings.device}/config", key)
    if own.status_code == HTTPStatus.FORBIDDEN:
        advice = (
            f"set device to the name that the key is for, or give {settings.device!r} a key of "
            f"its own: match-server device code --device {settings.device}"
        )
        found = f"it belongs to another device than {settings.device!r}"
        yield Check("key", "bad", found, advice)
    elif own.status_code == HTTPStatus.NOT_FOUND:
        found = "the server takes it; it has not heard of this box before"
        yield Check("key", "well", found)
    else:
        yield Check("key", "well", f"the server takes it, for {settings.device!r}")
        yield from _model_beside(own, settings)


def _model_beside(answer: "requests.Response", settings: AgentSettings) -> Iterator[Check]:
    """Whether the server could search with this box's templates; nothing where it does not say."""
    try:
        searched = answer.json()["searches"]
        collection, theirs = str(searched["collection"]), str(searched["model_id"])
    except (ValueError, KeyError, TypeError):
        return
    pack = installed(settings.models.pack)
    ours = None if pack is None else pack.pack.model_id
    if ours is not None and ours != theirs:
        found = f"this box makes templates of {ours}, {collection!r} holds {theirs}"
        advice = (
            "set models.pack to a pack of that model, or give the box another collection; "
            "until then each probe is refused"
        )
        yield Check("models", "bad", found, advice)


def _clock_beside(date: str | None, off_s: float) -> Iterator[Check]:
    """The box's clock beside the server's, from the Date header (RFC 9110, 6.6.1)."""
    try:
        theirs = parsedate_to_datetime(date or "")
    except ValueError:
        return
    ahead_s = (SystemClock().now() - theirs).total_seconds()
    if abs(ahead_s) > off_s + _DATE_STEP_S:
        found = f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the server's"
        yield Check("clock", "bad", found, "set both by NTP: sudo timedatectl set-ntp true")


def _broker(settings: AgentSettings, broker: BrokerSettings) -> Check:
    from edge_agent.delivery.mqtt import login_of, try_broker

    try:
        topics = DeviceTopics(settings.site, settings.device)
        try_broker(broker.url, topics, login_of(broker), _ANSWER_S)
    except Unauthenticated as error:
        advice = "are broker.username and broker.password_file (or its certificate) right?"
        return Check("broker", "bad", error.message, advice)
    except Unavailable as error:
        if error.__cause__ is None or isinstance(error.__cause__, queue.Empty):
            advice = "is it an MQTT 5 broker; is it mqtts:// there, and not mqtt://?"
            return Check("broker", "bad", error.message, advice)
        why = why_unreachable(error.__cause__, trust=_TRUST_BROKER, plain="mqtt://")
        found = f"{broker.url} cannot be reached: {why.found}"
        return Check("broker", "bad", found, why.advice)
    except MusterError as error:
        return Check("broker", "bad", error.message)
    return Check("broker", "well", f"{broker.url} lets the box in")
