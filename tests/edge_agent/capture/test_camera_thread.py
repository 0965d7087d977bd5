"""The thread of one camera: which errors end it."""

import threading
from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from edge_agent.agent import CameraThread
from edge_agent.capture.camera import Capture, ReadMode
from edge_agent.config.camera import DetectionSettings
from edge_agent.vision.pipeline import Pipeline, PipelineSettings
from models.types import BgrImage, Detections
from tests.support.fake_faces import FakeFaces, Sink

SETTINGS = PipelineSettings(
    detection=DetectionSettings(motion=False, faces="near")
)  # searches every frame


class Pictures:
    """Numbered pictures of a film."""

    live, stills = False, False

    def __init__(self, count: int) -> None:
        self._numbers: Iterator[int] = iter(range(count))

    def grab(self) -> float | None:
        self._number = next(self._numbers, None)
        return None if self._number is None else self._number / 10

    def retrieve(self) -> BgrImage:
        return np.full((48, 64, 3), self._number, np.uint8)

    def close(self) -> None: ...


class Breaking(FakeFaces):
    """Models that raise an unexpected error at some pictures."""

    def __init__(self, at: set[int]) -> None:
        super().__init__(lambda _: ())
        self._at = at

    def detect(
        self, image: BgrImage, *, retry_padded: bool = False, closer: bool = False
    ) -> Detections:
        if int(image[0, 0, 0]) in self._at:
            raise cv2.error("an assertion of OpenCV")
        return super().detect(image, retry_padded=retry_padded, closer=closer)


def watched(count: int, at: set[int]) -> CameraThread:
    capture = Capture("door", lambda: Pictures(count), ReadMode(False, False), threading.Event())
    thread = CameraThread(capture, Pipeline(Breaking(at), Sink(), SETTINGS))
    thread.run()
    return thread


def test_a_frame_at_which_a_library_fails_is_skipped_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    thread = watched(200, {20, 21, 100})
    assert thread.failure is None
    assert thread.report().frames == 200
    assert [line for line in caplog.messages if "broke" in line] == [
        "Camera door: skipped a frame that broke the pipeline"
    ]


def test_errors_at_several_frames_in_a_row_end_the_camera() -> None:
    thread = watched(200, set(range(20, 200)))
    assert isinstance(thread.failure, cv2.error)
    assert thread.report().frames < 60


def test_a_film_whose_last_frame_failed_has_failed() -> None:
    assert isinstance(watched(1, {0}).failure, cv2.error)
