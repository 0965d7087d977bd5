"""The first picture of a camera, for those who only want to know whether there is one."""

import threading

from edge_agent.camera_settings import CameraSettings
from edge_agent.capture.sources import open_source, read
from models.types import BgrImage
from shared.errors import MusterError, SourceError


def first_picture(camera: CameraSettings, timeout_s: float) -> BgrImage:
    """Opens the camera in a thread of its own: a dead address must not hold the caller up.

    Raises SourceError, or ConfigurationError where its password cannot be read.
    """
    outcome: list[BgrImage | MusterError] = []

    def look() -> None:
        try:
            source = open_source(camera.source, camera.asked)
            try:
                taken = read(source)
            finally:
                source.close()
        except MusterError as error:
            outcome.append(error)
        else:
            outcome.append(SourceError("it holds no picture") if taken is None else taken[0])

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if not outcome:
        raise SourceError(f"no picture within {timeout_s:.0f} s: check power and cable")
    if isinstance(outcome[0], MusterError):
        raise outcome[0]
    return outcome[0]
