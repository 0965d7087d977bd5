"""Reads films: every readable frame, with the times of the container."""

import logging
from pathlib import Path
from typing import Final

import cv2

from edge_agent.capture.jpeg_decoding import require_size
from edge_agent.capture.opencv_source import as_bgr
from models.types import BgrImage
from shared.errors import SourceError, UnreadablePicture

log = logging.getLogger(__name__)

_TOLERATED: Final = 0.1  # of a film's frames: more lost frames are a failure
_EARLY: Final = 0.05  # of its length: more missing time at the end is reported
_SLACK_S: Final = 0.5  # sound is often a little longer than the picture
_TRIES: Final = 32  # grabs that fail in a row at the end of a film
_MOST_TRIES: Final = 20_000  # where the container announces more frames: damage may be long
_BACK_S: Final = 2.0  # a time earlier by more starts a new film, as where two were joined
_COUNTING: Final = (b"ftyp", b"AVI ")  # containers that state the exact number of frames


class Film:
    """A video file, every frame in order. Stream time is that of the container, from 0 on.

    Damaged packets are skipped. At the end, lost frames are logged; more than a tenth of the film
    raise SourceError.
    """

    live, stills = False, False

    def __init__(self, path: Path) -> None:
        self._path = path
        self.lost = 0  # frames that could not be read, known at the end
        self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            self._capture.release()
            raise SourceError(
                f"{path} is no film or picture that can be read; it may be damaged or cut short",
                source=str(path),
            )
        try:
            width = self._capture.get(cv2.CAP_PROP_FRAME_WIDTH)
            require_size(str(path), width, self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        except SourceError:
            self._capture.release()
            raise
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self._frame_s = 1.0 / fps if 0.1 < fps < 1000 else 0.04
        self._announced = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self._counts_frames = _head(path).endswith(_COUNTING)
        self._read = 0
        self._damaged = 0
        self._time_s: float | None = None  # of the newest frame
        self._zero_s = 0.0  # the container's first time

    def grab(self) -> float | None:
        failed = 0
        while not self._capture.grab():
            failed += 1
            if failed > max(_TRIES, min(self._announced - self._read, _MOST_TRIES)):
                self._end()
                return None
        self._damaged += failed
        self._read += 1
        self._time_s = self._next_time_s()
        return self._time_s

    def retrieve(self) -> BgrImage:
        there, image = self._capture.retrieve()
        if not there:
            self._damaged += 1
            raise UnreadablePicture(f"frame {self._read} of {self._path} cannot be read")
        return as_bgr(image)

    def close(self) -> None:
        self._capture.release()

    def _next_time_s(self) -> float:
        raw_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if self._time_s is None:
            self._zero_s = raw_s
            return 0.0
        time_s = raw_s - self._zero_s
        if time_s < self._time_s - _BACK_S:
            time_s = self._time_s + self._frame_s
            self._zero_s = raw_s - time_s
        # Frames without times, or with damaged ones, follow each other at the frame rate.
        return time_s if time_s > self._time_s else self._time_s + self._frame_s

    def _end(self) -> None:
        if self._time_s is None:
            raise SourceError(f"{self._path} holds no frame that can be read; is it damaged?")
        ends_s = self._time_s + self._frame_s
        missing_s = self._announced * self._frame_s - ends_s
        early = missing_s > max(_SLACK_S, _EARLY * (ends_s + missing_s))
        if not early and not self._damaged:
            return
        missing = round(missing_s / self._frame_s) if early else 0
        if self._counts_frames:
            missing = self._announced - self._read
        self.lost = lost = max(self._damaged, missing)
        report = (
            f"{self._path}: {lost} of about {self._read + lost} frames could not be read; "
            f"{self._read} were" + (f", up to second {ends_s:.1f}" if early else "")
        )
        if lost > _TOLERATED * (self._read + lost):
            raise SourceError(f"{report}. It is damaged or cut short", source=str(self._path))
        log.warning("%s. It is damaged in part", report)


def _head(path: Path) -> bytes:
    """The kind of container, of those whose files begin with a length or RIFF."""
    with path.open("rb") as file:
        head = file.read(12)
    return head[4:8] if head[4:8] == _COUNTING[0] else head[8:12]
