"""`edge-agent doctor`: checks the device, and says what to do about each problem."""

import errno
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Final

from edge_agent.capture.camera import slow_start_advice
from edge_agent.capture.first_frame import first_picture, waits_for_keyframe
from edge_agent.capture.source import is_live
from edge_agent.config.camera import CameraSettings
from edge_agent.config.settings import AgentSettings
from edge_agent.diagnostics.server_check import check_broker, check_server
from edge_agent.fleet.remote_config import Configurations
from shared.checks import Check
from shared.clock import SystemClock
from shared.commands import shown
from shared.errors import MusterError, SourceError

_CAMERA_S: Final = 12.0
_SLOW_S: Final = 6.0
_TIMEOUT_S: Final = 5.0
_MIN_CONTRAST: Final = 2.0  # standard deviation of the pixels; below it a picture is empty


def examine(settings: AgentSettings) -> Iterator[Check]:
    """Runs one check after the other; a failed check never raises."""
    for camera in settings.cameras:
        yield _camera(camera)
    yield from _machine(settings)
    yield _models(settings)
    yield _clock()
    yield _disk(settings)
    if settings.server is not None:
        yield from check_server(settings, settings.server)
    if settings.broker is not None:
        yield check_broker(settings, settings.broker)
    if settings.gallery.mode != "off":
        from edge_agent.diagnostics.gallery_check import examine_galleries

        yield from examine_galleries(settings, SystemClock())
    if settings.server is None and settings.broker is None:
        yield Check(
            "delivery", "doubtful", "no way to a server", "add a section [server] or [broker]"
        )


def _camera(camera: CameraSettings) -> Check:
    name = f"camera {camera.name}"
    began_s = time.monotonic()
    try:
        picture = first_picture(camera, _CAMERA_S)
        took_s = time.monotonic() - began_s
        if camera.source.startswith("rpicam:"):
            _require_row_length(camera)
    except MusterError as error:
        return Check(name, "bad", error.message)
    height, width = picture.shape[:2]
    kind = "live" if is_live(camera.source) else "a recording"
    if float(picture.std()) < _MIN_CONTRAST:
        advice = "is the lens covered, or the room dark?"
        return Check(name, "doubtful", "gives pictures without content", advice)
    if waits_for_keyframe(camera) and took_s > _SLOW_S:
        message = f"{width} × {height}, {kind}; {slow_start_advice(took_s)}"
        return Check(name, "doubtful", message)
    return Check(name, "well", f"{width} × {height}, {kind}")


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
    from edge_agent.fleet.model_packs import names_of, require_expected, verify
    from models.face_models import open_models
    from models.packs.store import require

    expected = settings.models
    for name in names_of(expected):
        try:
            problems = require(name).problems()
        except MusterError as error:
            return Check("models", "bad", error.message)
        if problems:
            pull = shown(f"face-models pull {name}")
            advice = f"the agent downloads it again when it starts; or: {pull}"
            return Check("models", "bad", f"{name} is damaged: {'; '.join(problems)}", advice)
    try:
        require_expected(expected)
    except MusterError as error:
        advice = "install the version that server and box agreed on, or change embedder_sha256"
        return Check("models", "bad", error.message, advice)
    try:
        models = open_models(expected.pack, detector=expected.detector, closer=expected.closer)
        verify(models)
    except MusterError as error:
        return Check("models", "bad", error.message, shown(f"face-models pull {expected.pack}"))
    return Check("models", "well", f"{models.model_id}, {models.dimension} values a template")


def _machine(settings: AgentSettings) -> Iterator[Check]:
    """Checks heat and power; weak power is the most frequent problem of a Raspberry Pi."""
    from edge_agent.fleet.hardware import MachineSensors

    readings = MachineSensors(settings.state_dir).read()
    message = (
        "has no temperature sensor"
        if readings.temperature_c is None
        else f"{readings.temperature_c:.0f} °C"
    )
    if readings.throttled:
        advice = "a stronger power supply, a heat sink or a fan"
        yield Check("machine", "doubtful", f"{message}, its processor is slowed now", advice)
    elif readings.temperature_c is not None and readings.temperature_c >= settings.fleet.hot_c:
        advice = "a heat sink or a fan; until then the agent does less work"
        yield Check("machine", "doubtful", message, advice)
    else:
        yield Check("machine", "well", message)


def configuration(configurations: Configurations) -> Check:
    """Checks the newest configuration from the server."""
    stored = configurations.stored
    name, running = "configuration", configurations.running.revision
    if stored.last.revision == 0:
        return Check(name, "well", "the box's own file; the server has no other")
    if stored.state in ("refused", "rolled_back"):
        how = "was refused" if stored.state == "refused" else "was rolled back"
        message = f"revision {stored.last.revision} {how}: {stored.message}"
        advice = f"it runs with revision {running}; correct it on the server"
        return Check(name, "doubtful", message, advice)
    state = "on trial" if stored.state == "trying" else "in effect"
    return Check(name, "well", f"revision {running} of the server is {state}")


def _clock() -> Check:
    """Checks that the system synchronizes its clock by NTP."""
    program = shutil.which("timedatectl")
    now = f"{SystemClock().now():%Y-%m-%d %H:%M:%S} UTC"
    if program is None:
        return Check("clock", "well", f"{now} (unknown whether it is synchronized)")
    status = subprocess.run(
        [program, "show", "--property=NTPSynchronized", "--value"],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if status.stdout.strip() == "no":
        advice = "sudo timedatectl set-ntp true; times of events are wrong until it is synchronized"
        return Check("clock", "doubtful", f"{now}, not synchronized by NTP", advice)
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
