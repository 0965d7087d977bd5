"""The searched part of a picture: rotated, masked, cut; and the coordinates of boxes."""

import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_agent.capture.camera import Capture, Frame, ReadMode
from edge_agent.capture.image_region import cut_region, upright
from edge_agent.capture.source import open_source
from edge_agent.config.camera import CameraSettings, ViewSettings
from edge_agent.vision.pipeline import Pipeline
from tests.support.fake_faces import FakeFace, FakeFaces, Sink, frame_of


def numbered(
    width: int = 8, height: int = 4
) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    """Every pixel holds its position: x in the first channel, y in the second; none is black."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x + 1, y + 1, np.full_like(x, 7)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize(
    ("degrees", "corner"), [(0, (1, 1)), (90, (1, 4)), (180, (8, 4)), (270, (8, 1))]
)
def test_a_picture_is_turned_clockwise(degrees: int, corner: tuple[int, int]) -> None:
    image = upright(numbered(), ViewSettings(rotate=degrees))  # type: ignore[arg-type]
    assert tuple(image[0, 0, :2]) == corner
    assert image.shape[:2] == ((4, 8) if degrees % 180 == 0 else (8, 4))


def test_a_mask_is_black_and_lies_on_the_upright_picture() -> None:
    right_half = ((0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0))
    image = upright(numbered(), ViewSettings(rotate=90, masks=(right_half,)))
    assert (image[:, 2:] == 0).all()
    assert (image[:, :2, 2] == 7).sum() >= 8, "pixels outside of the mask do not change"


def test_masks_that_overlap_are_all_black() -> None:
    one = ((0.0, 0.0), (0.8, 0.0), (0.8, 1.0), (0.0, 1.0))
    other = ((0.2, 0.0), (1.0, 0.0), (1.0, 1.0), (0.2, 1.0))
    assert not upright(numbered(), ViewSettings(masks=(one, other))).any()


def test_a_region_has_an_origin() -> None:
    image, origin = cut_region(numbered(), ViewSettings(region=(0.25, 0.5, 0.75, 1.0)))
    assert origin == (2, 2)
    assert image.shape[:2] == (2, 4)
    assert tuple(image[0, 0, :2]) == (3, 3)


def test_a_capture_gives_the_masked_region_alone(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "door.png"), np.full((100, 200, 3), 90, np.uint8))
    view = ViewSettings(
        rotate=90, masks=(((0, 0), (1, 0), (1, 0.5), (0, 0.5)),), region=(0, 0.25, 1, 1)
    )
    capture = Capture(
        "door",
        lambda: open_source(str(tmp_path / "door.png")),
        ReadMode(live=False, reconnect=False),
        threading.Event(),
        view=view,
    )
    (frame,) = capture
    assert (frame.size, frame.origin, frame.source_size) == ((100, 150), (0, 50), (100, 200))
    assert not frame.image[:50].any()
    assert (frame.image[51:] == 90).all()


def test_a_box_is_in_pixels_of_the_whole_picture_whatever_region_was_searched() -> None:
    sink = Sink()
    pipeline = Pipeline(FakeFaces(lambda _: [FakeFace(3, 300, y=100)]), sink)
    for index in range(20):
        frame = frame_of(lambda _: [FakeFace(3, 300, y=100)], index)
        pipeline.step(
            Frame(
                frame.image,
                frame.captured_at,
                frame.time_s,
                index,
                "door",
                origin=(1000, 50),
                whole=(1920, 1080),
            )
        )
    (probe,) = sink.probes
    assert probe.box == pytest.approx((1270, 120, 1330, 180))
    assert probe.frame_size == (1920, 1080)


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ({"rotate": 45}, "0, 90, 180 or 270"),
        ({"region": [0.5, 0, 0.5, 1]}, "left before right"),
        ({"region": [0, 0, 1.5, 1]}, "fractions of the upright picture"),
        ({"masks": [[[0, 0], [1, 1]]]}, "at least three points"),
        ({"masks": [[[0, 0], [1, 1], [640, 480]]]}, "fractions of the upright"),
        ({"max_fps": 0}, "greater than 0"),
        ({"transport": "udp"}, "is for rtsp:// sources"),
        ({"username": "me"}, "username and password_file, or neither"),
    ],
)
def test_an_invalid_setting_is_refused_with_a_valid_example(
    setting: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        CameraSettings.model_validate({"name": "door", "source": "/dev/video0", **setting})


def test_settings_become_a_view_and_a_login(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\n")
    camera = CameraSettings.model_validate(
        {
            "name": "door",
            "source": "rtsp://host/1",
            "rotate": 180,
            "masks": [[[0, 0], [1, 0], [1, 1]]],
            "transport": "udp",
            "username": "me",
            "password_file": tmp_path / "password",
        }
    )
    assert (camera.rotate, camera.masks) == (180, (((0, 0), (1, 0), (1, 1)),))
    assert camera.login() == ("me", "secret")
    assert camera.transport == "udp"
