"""Opens the source that the setting `source` of a camera names."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

import cv2

from edge_agent.capture.file_source import Film
from edge_agent.capture.jpeg_decoding import max_pixels
from edge_agent.capture.opencv_source import OpenCvCamera, open_stream, open_usb_camera
from edge_agent.capture.rpicam_source import open_rpicam
from edge_agent.capture.stall import UNKNOWN_S
from edge_agent.capture.subprocess_source import SubprocessSource, gstreamer_command
from edge_agent.config.camera import ConnectionSettings
from models.images.formats import format_of
from models.types import BgrImage
from shared.addresses import redacted
from shared.errors import MusterError, SourceError

log = logging.getLogger(__name__)

_STREAMS: Final = ("rtsp", "rtsps", "rtmp", "http", "https")
_PICTURE_SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif"}
)
_HEAD_BYTES: Final = 4096
_MAX_PICTURE_FILE: Final = 64 * 1024 * 1024


class Source(Protocol):
    """One opened source."""

    @property
    def live(self) -> bool:
        """Whether pictures come in real time, so that only the newest counts."""
        ...

    @property
    def stills(self) -> bool:
        """Whether each picture is a scene of its own."""
        ...

    def grab(self) -> float | None:
        """Advances to the next picture. Returns its stream time in seconds, None at the end.

        Only films and folders end: a live source without further pictures raises SourceError.
        """
        ...

    def retrieve(self) -> BgrImage:
        """Decodes the picture that `grab` advanced to. The caller may change it."""
        ...

    def close(self) -> None: ...


def is_live(spec: str) -> bool:
    """Whether `spec` names a camera or stream rather than a film, picture or folder."""
    camera = _is_usb_camera(spec) or spec.startswith("rpicam:") or " ! " in spec
    return camera or _scheme(spec) in _STREAMS


def _is_usb_camera(spec: str) -> bool:
    """Whether `spec` names a video device. /dev/shm holds files in memory, not devices."""
    in_memory = spec.startswith("/dev/shm/")  # noqa: S108  # nothing is written there
    return spec.isdecimal() or (spec.startswith("/dev/") and not in_memory)


def read(source: Source) -> tuple[BgrImage, float] | None:
    """The next picture and its stream time in seconds; None at the end. It raises like `grab`."""
    time_s = source.grab()
    return None if time_s is None else (source.retrieve(), time_s)


def open_source(
    spec: str, settings: ConnectionSettings | None = None, stall_s: float = UNKNOWN_S
) -> Source:
    """Opens the source that `spec` names.

    - `/dev/video0` or `0`: a USB camera (V4L2)
    - `rtsp://…`: a network camera, over TCP or UDP
    - `http://…`: a network camera's MJPEG stream, a still picture, or another stream
    - `rpicam:0`: a Raspberry Pi camera, through `rpicam-vid` (or `libcamera-vid`)
    - `v4l2src ! videoconvert` and the like, anything with ` ! `: a GStreamer pipeline
    - a path: a folder of pictures, a picture or a film

    A camera that sends nothing for longer than `stall_s` fails. Raises SourceError, which names the
    source without its secrets and says what is valid, or ConfigurationError where the
    password cannot be read.
    """
    settings = settings or ConnectionSettings()
    if _is_usb_camera(spec):
        return open_usb_camera(spec, settings)
    if " ! " in spec:
        return _gstreamer(spec, stall_s)
    if spec.startswith("rpicam:"):
        return open_rpicam(spec, settings.size, settings.fps, stall_s)
    scheme = _scheme(spec)
    if scheme in _STREAMS:
        _require_address(spec)
    if scheme in ("http", "https"):
        # Imported here: a device without such a camera saves the memory of this library.
        from edge_agent.capture.http_source import open_over_http

        pictures = open_over_http(spec, settings, stall_s)
        return open_stream(spec, settings, stall_s) if pictures is None else pictures
    if scheme in _STREAMS:
        return open_stream(spec, settings, stall_s)
    return _open_path(spec)


def _scheme(spec: str) -> str:
    scheme, mark, _ = spec.partition("://")
    return scheme.lower() if mark else ""


def _require_address(spec: str) -> None:
    try:
        parts = urlsplit(spec)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise SourceError(
            f"{redacted(spec)} is not an address: give name and password as username and "
            "password_file, or write in them %2F for /, %40 for @, %3A for :, %3F for ?, %23 for #",
            source=redacted(spec),
        )


def _open_path(spec: str) -> Source:
    path = Path(spec).expanduser()
    if path.is_dir():
        return _Pictures(path, _pictures_in(path))
    if not path.exists():
        raise SourceError(
            f"there is no {redacted(spec)}: a source is a camera (/dev/video0), an address "
            "(rtsp://…), a GStreamer pipeline (with ' ! '), rpicam:0, a film, a picture or a "
            "folder of pictures",
            source=redacted(spec),
        )
    if not path.stat().st_size:
        raise SourceError(f"{spec} is empty (0 bytes)", source=spec)
    if _is_picture(path):
        return _Pictures(path, [path])
    return Film(path)


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
                log.warning("%s", error.message)  # the other pictures are read all the same
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


def _gstreamer(pipeline: str, stall_s: float) -> Source:
    """A GStreamer pipeline, inside OpenCV where its build can, else through gst-launch-1.0."""
    if "GStreamer: YES" in re.sub(r" +", " ", cv2.getBuildInformation()):
        whole = pipeline if "appsink" in pipeline else f"{pipeline} ! videoconvert ! appsink"
        capture = cv2.VideoCapture(whole, cv2.CAP_GSTREAMER)
        return OpenCvCamera(redacted(pipeline), capture, "does gst-launch-1.0 run it?")
    return SubprocessSource(redacted(pipeline), gstreamer_command(pipeline), stall_s)


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
        kind = format_of(file.read(_HEAD_BYTES))
    return path.suffix.lower() in _PICTURE_SUFFIXES or bool(kind and kind.decoder)


def _read_picture_file(path: Path) -> BgrImage:
    # Imported here: a device that reads cameras saves the memory of these decoders.
    from models.images.decoding import PictureLimits, read_picture

    try:
        if path.stat().st_size > _MAX_PICTURE_FILE:
            raise SourceError(f"{path} is larger than {_MAX_PICTURE_FILE >> 20} MiB")
        return read_picture(path.read_bytes(), PictureLimits(max_pixels=max_pixels()))
    except (MusterError, OSError) as error:
        raise SourceError(f"{path} cannot be used: {error}", source=str(path)) from error
