"""Expensive pictures are refused before they are decoded, or cost little."""

import numpy as np
import pytest

from edge_agent.capture.jpeg_decoding import decode_jpeg
from models.images import decoding as picture_module
from models.images.decoder_process import PictureChild
from models.images.decoding import read_picture
from shared.errors import MalformedInput, TooLarge, UnreadablePicture
from tests.attacks.pictures import BOMBS, ODDITIES, bmp_of_runs, encoded


@pytest.mark.parametrize("name", BOMBS)
def test_a_picture_that_would_cost_much_is_refused(name: str) -> None:
    with pytest.raises((MalformedInput, TooLarge)):
        read_picture(BOMBS[name]())


@pytest.mark.parametrize("name", ODDITIES)
def test_an_odd_picture_is_read(name: str) -> None:
    assert read_picture(ODDITIES[name]()).ndim == 3


@pytest.mark.parametrize("name", [name for name in BOMBS if name.startswith("JPEG")])
def test_a_box_refuses_them_too(name: str) -> None:
    with pytest.raises(UnreadablePicture):
        decode_jpeg(BOMBS[name]())


def test_a_picture_that_takes_too_long_ends_its_process_and_the_next_one_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    child = PictureChild(processor_s=0)
    monkeypatch.setattr(picture_module, "CHILD", child)
    with pytest.raises(MalformedInput, match="more memory or time"):
        read_picture(bmp_of_runs(3_000))
    assert read_picture(encoded("GIF")).shape == (48, 64, 3)
    child.close()
    assert read_picture(encoded("GIF")).shape == (48, 64, 3)
    child.close()


def test_what_the_child_decodes_can_be_written_to() -> None:
    picture = read_picture(encoded("TIFF"))
    picture[0, 0] = 0
    assert picture.dtype == np.uint8
