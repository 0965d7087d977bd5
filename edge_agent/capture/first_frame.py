"""The first picture of a camera, for those who only want to know whether there is one."""

import threading
from typing import Final

from edge_agent.capture.camera import as_source_error
from edge_agent.capture.source import Source, open_source, read
from edge_agent.config.camera import CameraSettings
from models.types import BgrImage
from shared.errors import ConfigurationError, SourceError, UnreadablePicture

_KEYFRAME_S: Final = 45.0  # a stream shows nothing before its first keyframe
_TRIES: Final = 5  # pictures that cannot be read, before the camera is taken to give no others


def waits_for_keyframe(camera: CameraSettings) -> bool:
    """Whether the camera's first picture may have to be waited for."""
    return camera.source.startswith(("rtsp://", "rtsps://"))


def first_picture(camera: CameraSettings, timeout_s: float) -> BgrImage:
    """Opens the camera in a thread of its own: a dead address must not hold the caller up.

    An RTSP camera has 45 seconds. Raises SourceError, or ConfigurationError where its password
    cannot be read.
    """
    if waits_for_keyframe(camera):
        timeout_s = max(timeout_s, _KEYFRAME_S)
    outcome: list[BgrImage | SourceError | ConfigurationError] = []

    def look() -> None:
        try:
            source = open_source(camera.source, camera)
            try:
                outcome.append(_readable_picture(source))
            finally:
                source.close()
        except ConfigurationError as error:
            outcome.append(error)
        except Exception as error:  # whatever a library raises is a fault of this camera
            outcome.append(as_source_error(error))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if not outcome:
        raise SourceError(f"no picture within {timeout_s:.0f} s: check power and cable")
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def _readable_picture(source: Source) -> BgrImage:
    for tries_left in reversed(range(_TRIES)):
        try:
            taken = read(source)
        except UnreadablePicture:
            if not tries_left:
                raise
        else:
            if taken is not None:
                return taken[0]
            break
    raise SourceError("it holds no picture")
