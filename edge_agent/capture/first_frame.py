"""Reads the first picture of a camera, to check whether the camera works."""

import threading
from typing import Final

from edge_agent.capture.camera import as_source_error
from edge_agent.capture.source import Source, open_source, read
from edge_agent.config.camera import CameraSettings
from models.types import BgrImage
from shared.errors import ConfigurationError, SourceError, UnreadablePicture

_KEYFRAME_S: Final = 45.0  # a stream has no picture before its first keyframe
_TRIES: Final = 5  # unreadable pictures in a row before the check fails


def waits_for_keyframe(camera: CameraSettings) -> bool:
    """Whether the camera's first picture may take long, because it is a keyframe."""
    return camera.source.startswith(("rtsp://", "rtsps://"))


def first_picture(camera: CameraSettings, timeout_s: float) -> BgrImage:
    """Opens the camera in a thread of its own, so that a dead address does not block the caller.

    The timeout is at least 45 seconds for an RTSP camera. Raises SourceError, or
    ConfigurationError where its password cannot be read.
    """
    if waits_for_keyframe(camera):
        timeout_s = max(timeout_s, _KEYFRAME_S)
    outcome: list[BgrImage | SourceError | ConfigurationError] = []

    def open_and_read() -> None:
        try:
            source = open_source(camera.source, camera)
            try:
                outcome.append(_readable_picture(source))
            finally:
                source.close()
        except ConfigurationError as error:
            outcome.append(error)
        except Exception as error:  # an error of any library is a fault of this camera
            outcome.append(as_source_error(error))

    thread = threading.Thread(target=open_and_read, daemon=True)
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
            picture_and_time = read(source)
        except UnreadablePicture:
            if not tries_left:
                raise
        else:
            if picture_and_time is not None:
                return picture_and_time[0]
            break
    raise SourceError("it holds no picture")
