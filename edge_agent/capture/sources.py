"""Sources: what a camera's `source` setting names, opened and read picture by picture."""

import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_agent.capture.pipes import PipeSource, gstreamer_command, rpicam_command
from models.types import BgrImage
from shared.errors import MusterError, SourceError

log = logging.getLogger(__name__)

_OPEN_TIMEOUT_MS: Final = 10_000
_READ_TIMEOUT_MS: Final = 5_000  # a stream that says nothing for so long has stalled
_STREAMS: Final = ("rtsp", "rtsps", "rtmp", "http", "https")
_PICTURE_HEADS: Final = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|GIF8|BM.{12}|RIFF.{4}WEBP|II\*\x00|MM\x00\*", re.DOTALL
)
_PICTURE_SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
)
_MAX_PICTURE_FILE: Final = 64 * 1024 * 1024
_ENDED_EARLY: Final = 0.95  # a film that gives less of its frames than this is called truncated


class Source(Protocol):
    """One opened source."""

    @property
    def live(self) -> bool:
        """Whether pictures come at the world's pace, so that old ones are worth nothing."""
        ...

    @property
    def stills(self) -> bool:
        """Whether pictures have nothing to do with one another: each is a scene of its own."""
        ...

    def read(self) -> tuple[BgrImage, float] | None:
        """The next picture and its stream time in seconds; None at the end of a film or folder.

        Raises SourceError when a live source gives nothing any more.
        """
        ...

    def close(self) -> None: ...


def is_live(spec: str) -> bool:
    """Whether `spec` names a camera or stream rather than a film, picture or folder."""
    camera = spec.isdecimal() or spec.startswith(("/dev/", "rpicam:")) or " ! " in spec
    return camera or urlsplit(spec).scheme in _STREAMS


def open_source(
    spec: str, *, size: tuple[int, int] | None = None, fps: float | None = None
) -> Source:
    """Opens what `spec` names; `size` (width, height) and `fps` are asked of a camera.

    - `/dev/video0` or `0`: a USB camera (V4L2)
    - `rtsp://…` (over TCP), `http://…`: a network camera or stream
    - `rpicam:0`: a Raspberry Pi camera, through `rpicam-vid` (or `libcamera-vid`)
    - `v4l2src ! videoconvert` and the like, anything with ` ! `: a GStreamer pipeline
    - a path: a folder of pictures, a picture or a film

    Raises SourceError, which names the source and says what would be right.
    """
    if spec.isdecimal() or spec.startswith("/dev/"):
        return _UsbCamera(spec, size, fps)
    if " ! " in spec:
        return _gstreamer(spec)
    if spec.startswith("rpicam:"):
        return PipeSource(without_secrets(spec), rpicam_command(spec, size, fps))
    if urlsplit(spec).scheme in _STREAMS:
        return _Stream(spec)
    path = Path(spec).expanduser()
    if path.is_dir():
        return _Pictures(path, _pictures_in(path))
    if not path.exists():
        raise SourceError(
            f"there is no {spec}: a source is a camera (/dev/video0), an address (rtsp://…), a"
            " GStreamer pipeline (with ' ! '), rpicam:0, a film, a picture or a folder of pictures",
            source=spec,
        )
    if not path.stat().st_size:
        raise SourceError(f"{spec} is empty (0 bytes)", source=spec)
    if _is_picture(path):
        return _Pictures(path, [path])
    return _Film(path)


def without_secrets(spec: str) -> str:
    """A source as it may be written into a log: without the password of an address."""
    return re.sub(r"(\w+://)[^/@\s]*@", r"\1…@", spec)


class _Pictures:
    """A picture, or the pictures of a folder in the order of their names."""

    live, stills = False, True

    def __init__(self, origin: Path, paths: list[Path]) -> None:
        self._origin = origin
        self._alone = paths == [origin]
        self._paths: Iterator[Path] = iter(paths)
        self._count = 0

    def read(self) -> tuple[BgrImage, float] | None:
        for path in self._paths:
            try:
                image = _read_picture_file(path)
            except SourceError as error:
                if self._alone:
                    raise
                log.warning("%s", error.message)  # one bad picture never stops the rest
                continue
            self._count += 1
            return image, float(self._count - 1)
        if not self._count and not self._alone:
            raise SourceError(f"no picture in {self._origin} could be read")
        return None

    def close(self) -> None: ...


class _Film:
    """A video file, every frame in order."""

    live, stills = False, False

    def __init__(self, path: Path) -> None:
        self._path = path
        self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            self._capture.release()
            raise SourceError(
                f"{path} is no film or picture that can be read; it may be damaged or cut short",
                source=str(path),
            )
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self._frame_s = 1.0 / fps if 0.1 < fps < 1000 else 0.04
        self._promised = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self._count = 0

    def read(self) -> tuple[BgrImage, float] | None:
        there, image = self._capture.read()
        if there:
            self._count += 1
            return _bgr(image), (self._count - 1) * self._frame_s
        if not self._count:
            raise SourceError(f"{self._path} holds no frame that can be read; is it damaged?")
        if self._count < self._promised * _ENDED_EARLY:
            log.warning(
                "%s ends after %d of %d frames: it is damaged or cut short",
                self._path,
                self._count,
                self._promised,
            )
        return None

    def close(self) -> None:
        self._capture.release()


class _Live:
    """A camera or stream behind OpenCV; stream time is the monotonic clock."""

    live, stills = True, False

    def __init__(self, spec: str, capture: cv2.VideoCapture, why_not: str) -> None:
        self._spec = spec
        self._capture = capture
        if not capture.isOpened():
            capture.release()
            raise SourceError(f"{spec} cannot be opened: {why_not}", source=spec)

    def read(self) -> tuple[BgrImage, float] | None:
        there, image = self._capture.read()
        if not there:
            raise SourceError(f"{self._spec} gives no pictures any more", source=self._spec)
        return _bgr(image), time.monotonic()

    def close(self) -> None:
        self._capture.release()


class _UsbCamera(_Live):
    def __init__(self, spec: str, size: tuple[int, int] | None, fps: float | None) -> None:
        path = Path(f"/dev/video{spec}" if spec.isdecimal() else spec)
        if not path.exists():
            others = ", ".join(sorted(str(one) for one in Path("/dev").glob("video*")))
            raise SourceError(
                f"there is no camera {path}: is it plugged in? There is {others or 'none here'}",
                source=spec,
            )
        capture = cv2.VideoCapture(str(path), cv2.CAP_V4L2)
        # MJPG first: raw pictures at full size do not pass through USB 2 at a camera's full rate.
        capture.set(cv2.CAP_PROP_FOURCC, float(cv2.VideoWriter.fourcc(*"MJPG")))
        if size is not None:
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
        if fps is not None:
            capture.set(cv2.CAP_PROP_FPS, fps)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        super().__init__(
            str(path), capture, "another program may use it, or this user may not (group video)"
        )


class _Stream(_Live):
    """A network stream through FFmpeg, which takes RTSP over TCP unless it is told otherwise."""

    def __init__(self, spec: str) -> None:
        capture = cv2.VideoCapture(
            spec,
            cv2.CAP_FFMPEG,
            [
                cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
                _OPEN_TIMEOUT_MS,
                cv2.CAP_PROP_READ_TIMEOUT_MSEC,
                _READ_TIMEOUT_MS,
            ],
        )
        super().__init__(
            without_secrets(spec), capture, "is it on, and are address, name and password right?"
        )


def _gstreamer(pipeline: str) -> Source:
    """A GStreamer pipeline, inside OpenCV where its build can, else through gst-launch-1.0."""
    if "GStreamer: YES" in re.sub(r" +", " ", cv2.getBuildInformation()):
        whole = pipeline if "appsink" in pipeline else f"{pipeline} ! videoconvert ! appsink"
        capture = cv2.VideoCapture(whole, cv2.CAP_GSTREAMER)
        return _Live(without_secrets(pipeline), capture, "does gst-launch-1.0 run it?")
    return PipeSource(without_secrets(pipeline), gstreamer_command(pipeline))


def _bgr(image: NDArray[Any]) -> BgrImage:
    """OpenCV types its pictures as anything; a capture gives 8-bit BGR, which is said here."""
    return image.astype(np.uint8, copy=False)


def _pictures_in(folder: Path) -> list[Path]:
    """The files of a folder that are pictures by their names, in order."""
    paths = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in _PICTURE_SUFFIXES and path.is_file()
    )
    if not paths:
        kinds = ", ".join(sorted(_PICTURE_SUFFIXES))
        raise SourceError(f"the folder {folder} holds no pictures ({kinds})", source=str(folder))
    return paths


def _is_picture(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(16)
    return path.suffix.lower() in _PICTURE_SUFFIXES or _PICTURE_HEADS.match(head) is not None


def _read_picture_file(path: Path) -> BgrImage:
    # Here, not above: a box that watches a camera does without the picture decoders' memory.
    from models.picture import read_picture

    try:
        if path.stat().st_size > _MAX_PICTURE_FILE:
            raise SourceError(f"{path} is larger than {_MAX_PICTURE_FILE >> 20} MiB")
        return read_picture(path.read_bytes())
    except (MusterError, OSError) as error:
        raise SourceError(f"{path} cannot be used: {error}", source=str(path)) from error
