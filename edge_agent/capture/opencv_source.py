"""Reads cameras with OpenCV: USB cameras through V4L2, network streams through FFmpeg."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_agent.capture.address import with_login
from edge_agent.capture.jpeg_decoding import require_size
from edge_agent.capture.stall import LEAST_S
from edge_agent.config.camera import ConnectionSettings
from models.types import BgrImage
from shared.addresses import redacted
from shared.errors import SourceError

_OPEN_S: Final = 10.0
_FIRST_S: Final = 45.0  # for the first picture, which is a keyframe
_OPTIONS: Final = "OPENCV_FFMPEG_CAPTURE_OPTIONS"


class OpenCvCamera:
    """A camera or stream that OpenCV reads; stream time is the monotonic clock.

    `name` has no secrets and may stand in a log. The first picture may take `first_s` seconds.
    """

    live, stills = True, False

    def __init__(
        self, name: str, capture: cv2.VideoCapture, why_not: str, *, first_s: float = 0.0
    ) -> None:
        self._name = name
        self._capture = capture
        self._first_until_s: float | None = time.monotonic() + first_s
        try:
            if not capture.isOpened():
                raise SourceError(f"{name} cannot be opened: {why_not}", source=name)
            width = capture.get(cv2.CAP_PROP_FRAME_WIDTH)
            require_size(name, width, capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        except SourceError:
            capture.release()
            raise

    def grab(self) -> float:
        while not self._capture.grab():
            if self._first_until_s is None or time.monotonic() >= self._first_until_s:
                raise SourceError(f"{self._name} gives no pictures any more", source=self._name)
            time.sleep(0.01)
        self._first_until_s = None
        return time.monotonic()

    def retrieve(self) -> BgrImage:
        success, image = self._capture.retrieve()
        if not success:
            raise SourceError(f"{self._name} gives no pictures any more", source=self._name)
        return as_bgr(image)

    def close(self) -> None:
        self._capture.release()


def open_usb_camera(spec: str, settings: ConnectionSettings) -> OpenCvCamera:
    """Opens a USB camera by its number or device file. Raises SourceError where it cannot."""
    path = Path(f"/dev/video{spec}" if spec.isdecimal() else spec)
    if not path.exists():
        others = ", ".join(sorted(str(device) for device in Path("/dev").glob("video*")))
        raise SourceError(
            f"there is no camera {path}: is it plugged in? There is {others or 'none here'}",
            source=spec,
        )
    capture = cv2.VideoCapture(str(path), cv2.CAP_V4L2)
    # MJPG first: USB 2 is too slow for raw pictures at full size and rate.
    capture.set(cv2.CAP_PROP_FOURCC, float(cv2.VideoWriter.fourcc(*"MJPG")))
    if settings.size is not None:
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, settings.size[0])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, settings.size[1])
    if settings.fps is not None:
        capture.set(cv2.CAP_PROP_FPS, settings.fps)
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    why_not = "another program may use it, or this user may not (group video)"
    return OpenCvCamera(str(path), capture, why_not)


def open_stream(spec: str, settings: ConnectionSettings, stall_s: float = LEAST_S) -> OpenCvCamera:
    """Opens a network stream through FFmpeg. It fails when it sends nothing for `stall_s`."""
    scheme, name = urlsplit(spec).scheme, redacted(spec)
    limits = [
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
        round(_OPEN_S * 1000),
        cv2.CAP_PROP_READ_TIMEOUT_MSEC,
        round(stall_s * 1000),
    ]
    options = ["rtsp_transport;udp"] if settings.transport == "udp" and scheme == "rtsp" else []
    if settings.ca_file is not None and scheme in ("https", "rtsps"):
        options += ["tls_verify;1", f"ca_file;{settings.ca_file}"]
    with _ffmpeg_options.hold("|".join(options) or None):
        capture = cv2.VideoCapture(with_login(spec, settings.login()), cv2.CAP_FFMPEG, limits)
    if not capture.isOpened() and scheme in ("rtsp", "rtsps"):
        from edge_agent.capture.rtsp_error import why_not_opened

        capture.release()
        raise SourceError(f"{name} cannot be opened: {why_not_opened(spec, settings)}", source=name)
    why_not = "is it on, and are address, name and password right?"
    first_s = _FIRST_S if scheme in ("rtsp", "rtsps") else 0.0
    return OpenCvCamera(name, capture, why_not, first_s=first_s)


class _FfmpegOptions:
    """FFmpeg's options, which OpenCV reads from an environment variable of the process.

    Streams with the same options may be opened at the same time; others wait for them.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._opening = 0
        self._options: str | None = None
        self._inherited = os.environ.get(_OPTIONS)

    @contextmanager
    def hold(self, options: str | None) -> Iterator[None]:
        """Streams that are opened in the `with` block get `options`; None is the default, TCP."""
        with self._changed:
            self._changed.wait_for(lambda: not self._opening or self._options == options)
            self._options = options
            self._opening += 1
            if options is not None:
                os.environ[_OPTIONS] = (
                    options if self._inherited is None else f"{self._inherited}|{options}"
                )
        try:
            yield
        finally:
            with self._changed:
                self._opening -= 1
                if not self._opening and options is not None:
                    del os.environ[_OPTIONS]
                    if self._inherited is not None:
                        os.environ[_OPTIONS] = self._inherited
                self._changed.notify_all()


_ffmpeg_options: Final = _FfmpegOptions()  # one for the process, like the environment


def as_bgr(image: NDArray[Any]) -> BgrImage:
    """Types a picture of OpenCV, which is 8-bit BGR, but has no exact type."""
    return image.astype(np.uint8, copy=False)
