"""The doctor: what is wrong with this box, and what to do about it."""

import errno
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from typing import Final, Literal

from edge_agent.agent import broker_login
from edge_agent.camera_settings import CameraSettings
from edge_agent.capture.sources import is_live, open_source, read
from edge_agent.fleet.configuration import Configurations
from edge_agent.settings import AgentSettings, BrokerSettings, ServerSettings
from shared.clock import SystemClock
from shared.errors import MusterError
from shared.topics import DeviceTopics

_CAMERA_S: Final = 12.0
_ANSWER_S: Final = 5.0
_DATE_STEP_S: Final = 1.0  # the header tells whole seconds


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    state: Literal["well", "doubtful", "bad"]
    found: str
    advice: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)

    def as_text(self) -> str:
        mark = {"well": "ok  ", "doubtful": "hm  ", "bad": "BAD "}[self.state]
        advice = f"\n      → {self.advice}" if self.advice else ""
        return f"{mark}{self.what}: {self.found}{advice}"


def examine(settings: AgentSettings) -> Iterator[Finding]:
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
        from edge_agent.gallery.checkup import examine_galleries

        yield from examine_galleries(settings, SystemClock())
    if settings.server is None and settings.broker is None:
        yield Finding(
            "delivery", "doubtful", "no way to a server", "add a section [server] or [broker]"
        )


def _camera(camera: CameraSettings) -> Finding:
    """Opens the camera in a thread of its own: a dead address must not hold the doctor up."""
    what = f"camera {camera.name}"
    answer: list[Finding] = []

    def look() -> None:
        try:
            source = open_source(camera.source, camera.asked)
            try:
                picture = read(source)
            finally:
                source.close()
        except MusterError as error:
            answer.append(Finding(what, "bad", error.message))
            return
        if picture is None:
            answer.append(Finding(what, "bad", "it holds no picture"))
            return
        height, width = picture[0].shape[:2]
        kind = "live" if is_live(camera.source) else "a recording"
        if float(picture[0].std()) < 2.0:
            advice = "is the lens covered, or the room dark?"
            answer.append(Finding(what, "doubtful", "gives pictures without content", advice))
            return
        answer.append(Finding(what, "well", f"{width} × {height}, {kind}"))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(_CAMERA_S)
    if answer:
        return answer[0]
    return Finding(what, "bad", f"no picture within {_CAMERA_S:.0f} s", "check power and cable")


def _models(settings: AgentSettings) -> Finding:
    from edge_agent.fleet.packs import names_of, prove
    from models.analysis import open_models
    from models.packs.store import require

    wanted = settings.models
    for name in names_of(wanted):
        try:
            problems = require(name).problems()
        except MusterError as error:
            return Finding("models", "bad", error.message, f"face-models pull {name}")
        if problems:
            advice = f"the agent fetches it again when it starts; or: face-models pull {name}"
            return Finding("models", "bad", f"{name} is damaged: {'; '.join(problems)}", advice)
    try:
        models = open_models(wanted.pack, detector=wanted.detector, closer=wanted.closer)
        prove(models)
    except MusterError as error:
        return Finding("models", "bad", error.message, f"face-models pull {wanted.pack}")
    return Finding("models", "well", f"{models.model_id}, {models.dimension} values a template")


def _machine(settings: AgentSettings) -> Iterator[Finding]:
    """Heat, and weak power, which is the commonest ill of a Raspberry Pi."""
    from edge_agent.fleet.sensors import MachineSensors

    readings = MachineSensors(settings.state_dir).read()
    found = (
        "says nothing of its temperature"
        if readings.temperature_c is None
        else f"{readings.temperature_c:.0f} °C"
    )
    if readings.throttled:
        advice = "a stronger power supply, a heat sink or a fan"
        yield Finding("machine", "doubtful", f"{found}, its processor is slowed now", advice)
    elif readings.temperature_c is not None and readings.temperature_c >= settings.fleet.hot_c:
        advice = "a heat sink or a fan; until then the agent does without something"
        yield Finding("machine", "doubtful", found, advice)
    else:
        yield Finding("machine", "well", found)


def configuration(configurations: Configurations) -> Finding:
    """What became of the newest configuration that the server wanted."""
    kept = configurations.kept
    what, running = "configuration", configurations.running.revision
    if kept.last.revision == 0:
        return Finding(what, "well", "the box's own file; the server has wanted nothing else")
    if kept.state in ("refused", "rolled_back"):
        how = "was refused" if kept.state == "refused" else "was undone"
        found = f"revision {kept.last.revision} {how}: {kept.message}"
        advice = f"it runs with revision {running}; put it right on the server"
        return Finding(what, "doubtful", found, advice)
    state = "on trial" if kept.state == "trying" else "in effect"
    return Finding(what, "well", f"revision {running} of the server is {state}")


def _clock() -> Finding:
    """Whether the system says that its clock is kept by NTP."""
    program = shutil.which("timedatectl")
    now = f"{SystemClock().now():%Y-%m-%d %H:%M:%S} UTC"
    if program is None:
        return Finding("clock", "well", f"{now} (nothing here says whether it is kept)")
    told = subprocess.run(
        [program, "show", "--property=NTPSynchronized", "--value"],
        capture_output=True,
        text=True,
        timeout=_ANSWER_S,
        check=False,
    )
    if told.stdout.strip() == "no":
        advice = "sudo timedatectl set-ntp true; times of events are wrong until it is kept"
        return Finding("clock", "doubtful", f"{now}, not kept by NTP", advice)
    return Finding("clock", "well", now)


def _disk(settings: AgentSettings) -> Finding:
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
        return Finding("outbox", "bad", f"{folder}: {error}", advice)
    if free_mib < settings.outbox.max_mib:
        return Finding(
            "outbox",
            "doubtful",
            f"{folder} has {free_mib} MiB free, the outbox may need {settings.outbox.max_mib}",
            "free some space, or make outbox.max_mib smaller",
        )
    return Finding("outbox", "well", f"{folder}, {free_mib} MiB free")


def _server(settings: AgentSettings, server: ServerSettings) -> Iterator[Finding]:
    """Asks for the server's health, compares the clocks, then tries the key with no probe."""
    import requests

    base = server.url.rstrip("/")
    trust: bool | str = True if server.ca_file is None else str(server.ca_file)
    try:
        health = requests.get(f"{base}/readyz", timeout=_ANSWER_S, verify=trust)
    except requests.RequestException as error:
        advice = "is the address right, is match-server running, does a firewall stand between?"
        yield Finding("server", "bad", f"{base} cannot be reached ({_kind(error)})", advice)
        return
    if health.ok:
        yield Finding("server", "well", f"{base} is ready")
    else:
        yield Finding("server", "bad", f"{base} answers {health.status_code}", "see its log")
    yield from _clock_beside(health.headers.get("Date"), settings.fleet.clock_off_s)
    try:
        key = server.key()
        empty = requests.post(
            f"{base}/v1/probes",
            json=[],
            headers={"Authorization": f"Bearer {key}"},
            timeout=_ANSWER_S,
            verify=trust,
            allow_redirects=False,
        )
    except MusterError as error:
        yield Finding("key", "bad", error.message)
        return
    except requests.RequestException as error:
        yield Finding("key", "bad", f"could not be tried ({_kind(error)})")
        return
    if empty.status_code in (401, 403):
        advice = (
            f"match-server device code --device {settings.device}, and then on this box: "
            f"edge-agent enroll-device --server {base} CODE"
        )
        yield Finding("key", "bad", f"the server answers {empty.status_code}", advice)
    elif not (empty.ok or empty.status_code in (400, 422)):  # no probe is not a list of probes
        yield Finding("key", "doubtful", f"the server answers {empty.status_code}")
    else:
        yield _whose_key(settings.device, base, key, trust)


def _whose_key(device: str, base: str, key: str, trust: bool | str) -> Finding:
    """A key that may send probes may still be another box's: asked by what only its own box may."""
    import requests

    try:
        own = requests.get(
            f"{base}/v1/devices/{device}/config",
            headers={"Authorization": f"Bearer {key}"},
            timeout=_ANSWER_S,
            verify=trust,
            allow_redirects=False,
        )
    except requests.RequestException as error:
        return Finding("key", "bad", f"could not be tried ({_kind(error)})")
    if own.status_code == 403:
        advice = (
            f"set device to the name that the key is for, or give {device!r} a key of its own: "
            f"match-server device code --device {device}"
        )
        return Finding("key", "bad", f"it belongs to another device than {device!r}", advice)
    if own.status_code == 404:
        return Finding("key", "well", "the server takes it; it has not heard of this box before")
    return Finding("key", "well", f"the server takes it, for {device!r}")


def _clock_beside(date: str | None, off_s: float) -> Iterator[Finding]:
    """The box's clock beside the server's, from the Date header (RFC 9110, 6.6.1)."""
    try:
        theirs = parsedate_to_datetime(date or "")
    except ValueError:
        return
    ahead_s = (SystemClock().now() - theirs).total_seconds()
    if abs(ahead_s) > off_s + _DATE_STEP_S:
        found = f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the server's"
        yield Finding("clock", "bad", found, "set both by NTP: sudo timedatectl set-ntp true")


def _broker(settings: AgentSettings, broker: BrokerSettings) -> Finding:
    from edge_agent.publishers.mqtt import try_broker

    try:
        topics = DeviceTopics(settings.site, settings.device)
        try_broker(broker.url, topics, broker_login(broker), _ANSWER_S)
    except MusterError as error:
        advice = "is the broker running, are address, name and password right?"
        return Finding("broker", "bad", error.message, advice)
    return Finding("broker", "well", f"{broker.url} lets the box in")


def _kind(error: Exception) -> str:
    return type(error).__name__
