"""Sources: what a camera's `source` setting names, opened and read picture by picture."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

import cv2

from edge_agent.capture.pipes import PipeSource, gstreamer_command, rpicam_command
from edge_agent.capture.streams import (
    STALL_S,
    Asked,
    OpenCvCamera,
    as_bgr,
    open_stream,
    open_usb_camera,
    split_login,
    without_secrets,
)
from models.types import BgrImage
from shared.errors import MusterError, SourceError

log = logging.getLogger(__name__)

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

    def grab(self) -> float | None:
        """Goes on to the next picture; its stream time in seconds, None at the end.

        Only films and folders end: a live source that gives nothing any more raises SourceError.
        """
        ...

    def retrieve(self) -> BgrImage:
        """The picture that was gone on to; it belongs to the caller. Not every one need be."""
        ...

    def close(self) -> None: ...


def is_live(spec: str) -> bool:
    """Whether `spec` names a camera or stream rather than a film, picture or folder."""
    camera = spec.isdecimal() or spec.startswith(("/dev/", "rpicam:")) or " ! " in spec
    return camera or urlsplit(spec).scheme in _STREAMS


def read(source: Source) -> tuple[BgrImage, float] | None:
    """The next picture and its stream time in seconds; None at the end. As `Source.grab`."""
    time_s = source.grab()
    return None if time_s is None else (source.retrieve(), time_s)


def open_source(spec: str, asked: Asked | None = None) -> Source:
    """Opens what `spec` names, with what is asked of it where its kind can be asked.

    - `/dev/video0` or `0`: a USB camera (V4L2)
    - `rtsp://…`: a network camera, over TCP or UDP
    - `http://…`: a network camera's row of JPEG pictures, or a stream
    - `rpicam:0`: a Raspberry Pi camera, through `rpicam-vid` (or `libcamera-vid`)
    - `v4l2src ! videoconvert` and the like, anything with ` ! `: a GStreamer pipeline
    - a path: a folder of pictures, a picture or a film

    Raises SourceError, which names the source and says what would be right.
    """
    asked = asked or Asked()
    if spec.isdecimal() or spec.startswith("/dev/"):
        return open_usb_camera(spec, asked)
    if " ! " in spec:
        return _gstreamer(spec)
    if spec.startswith("rpicam:"):
        return PipeSource(without_secrets(spec), rpicam_command(spec, asked.size, asked.fps))
    scheme = urlsplit(spec).scheme
    if scheme in ("http", "https"):
        return _over_http(spec, asked)
    if scheme in _STREAMS:
        return open_stream(spec, asked)
    return _open_path(spec)


def _over_http(spec: str, asked: Asked) -> Source:
    # Here, not above: a box without such a camera does without this library's memory.
    from edge_agent.capture.mjpeg import MjpegStream

    url, login = split_login(spec)
    pictures = MjpegStream.open(without_secrets(spec), url, asked.login or login, STALL_S)
    return open_stream(spec, asked) if pictures is None else pictures


def _open_path(spec: str) -> Source:
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


class _Pictures:
    """A picture, or the pictures of a folder in the order of their names."""

    live, stills = False, True

    def __init__(self, origin: Path, paths: list[Path]) -> None:
        self._origin = origin
        self._alone = paths == [origin]
        self._paths: Iterator[Path] = iter(paths)
        self._image: BgrImage | None = None
        self._count = 0

    def grab(self) -> float | None:
        for path in self._paths:
            try:
                self._image = _read_picture_file(path)
            except SourceError as error:
                if self._alone:
                    raise
                log.warning("%s", error.message)  # one bad picture never stops the rest
                continue
            self._count += 1
            return float(self._count - 1)
        if not self._count and not self._alone:
            raise SourceError(f"no picture in {self._origin} could be read")
        return None

    def retrieve(self) -> BgrImage:
        image, self._image = self._image, None
        if image is None:
            raise SourceError(f"{self._origin}: there is no further picture")
        return image

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

    def grab(self) -> float | None:
        if self._capture.grab():
            self._count += 1
            return (self._count - 1) * self._frame_s
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

    def retrieve(self) -> BgrImage:
        there, image = self._capture.retrieve()
        if not there:
            raise SourceError(f"frame {self._count} of {self._path} cannot be read; is it damaged?")
        return as_bgr(image)

    def close(self) -> None:
        self._capture.release()


def _gstreamer(pipeline: str) -> Source:
    """A GStreamer pipeline, inside OpenCV where its build can, else through gst-launch-1.0."""
    if "GStreamer: YES" in re.sub(r" +", " ", cv2.getBuildInformation()):
        whole = pipeline if "appsink" in pipeline else f"{pipeline} ! videoconvert ! appsink"
        capture = cv2.VideoCapture(whole, cv2.CAP_GSTREAMER)
        return OpenCvCamera(without_secrets(pipeline), capture, "does gst-launch-1.0 run it?")
    return PipeSource(without_secrets(pipeline), gstreamer_command(pipeline))


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
