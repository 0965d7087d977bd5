"""A closer look in tiles: nothing lost at their edges, nothing found twice."""

import numpy as np
import pytest
from numpy.typing import NDArray

from models.detectors.tiles import Tiles
from models.face_models import FaceModels, open_models
from models.samples import sample_path
from models.types import BgrImage, Detections
from tests.models.conftest import read


class Spots:
    """A detector of white rectangles that are at least a twentieth of its picture's width."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []

    def detect(self, image: BgrImage) -> Detections:
        import cv2

        self.sizes.append((image.shape[1], image.shape[0]))
        _, _, stats, _ = cv2.connectedComponentsWithStats((image[:, :, 0] > 128).astype(np.uint8))
        detections = [
            (x, y, x + w, y + h) for x, y, w, h, _ in stats[1:].tolist() if w >= image.shape[1] / 20
        ]
        boxes = np.array(detections, np.float32).reshape(-1, 4)
        return Detections(boxes, np.full(len(detections), 0.9, np.float32))


def scene(width: int, height: int, spots: list[tuple[int, int, int, int]]) -> BgrImage:
    image = np.zeros((height, width, 3), np.uint8)
    for x, y, w, h in spots:
        image[y : y + h, x : x + w] = 255
    return image


def boxes_of(detections: Detections) -> set[tuple[float, ...]]:
    return {tuple(box) for box in detections.boxes.tolist()}


@pytest.mark.parametrize("seed", range(10))
def test_every_face_is_found_once_wherever_it_lies(seed: int) -> None:
    chance = np.random.default_rng(seed)
    spots = []
    for column in range(6):  # a cell each, so that they do not touch
        for row in range(3):
            side = int(chance.integers(40, 80)) if (column + row) % 3 else 200
            x = column * 320 + int(chance.integers(0, 318 - side))
            y = row * 360 + int(chance.integers(0, 358 - side))
            spots.append((x, y, side, side))
    detections = Tiles(Spots()).detect(scene(1920, 1080, spots))
    assert boxes_of(detections) == {(x, y, x + w, y + h) for x, y, w, h in spots}
    assert len(detections) == len(spots)


def test_a_picture_no_larger_than_a_tile_is_looked_at_once() -> None:
    detector = Spots()
    Tiles(detector).detect(scene(640, 480, []))
    assert detector.sizes == [(640, 480)]


@pytest.mark.parametrize(("size", "runs"), [((1280, 720), 5), ((1920, 1080), 10)])
def test_the_cost_is_the_number_of_tiles_and_one(size: tuple[int, int], runs: int) -> None:
    detector = Spots()
    Tiles(detector).detect(scene(*size, []))
    assert len(detector.sizes) == runs


def test_no_size_of_face_is_lost_between_the_tiles_and_the_whole() -> None:
    sides = [40, 80, 119, 121, 150, 199, 201, 260, 400]
    spots = [(60 + 430 * n, 100 + 150 * n, side, side) for n, side in enumerate(sides)]
    picture = scene(4000, 2250, spots)
    assert len(Spots().detect(picture)) == 3
    detections = Tiles(Spots()).detect(picture)
    assert len(detections) == len(spots)
    expected = np.array([(x, y, x + w, y + h) for x, y, w, h in spots], np.float32)
    distances = np.abs(detections.boxes[:, np.newaxis] - expected).max(axis=2)
    assert (distances.min(axis=0) <= 2).all()


def test_what_only_a_tile_shows_must_be_credible() -> None:
    picture = scene(1920, 1080, [(100, 100, 40, 40), (900, 500, 60, 60), (1500, 200, 200, 200)])
    assert len(Tiles(Spots(), min_score=0.95).detect(picture)) == 1  # the one of the whole picture
    assert len(Tiles(Spots(), smallest=50).detect(picture)) == 2


def test_a_face_at_the_pictures_edge_is_not_taken_for_one_that_is_cut_off() -> None:
    detections = Tiles(Spots()).detect(scene(1920, 1080, [(0, 500, 50, 50), (1870, 1030, 50, 50)]))
    assert boxes_of(detections) == {(0, 500, 50, 550), (1870, 1030, 1920, 1080)}


class Parts:
    """A detector that takes a face for one in the whole picture, and its eyes for one in a tile."""

    def __init__(self, whole: float) -> None:
        self._whole = whole

    def detect(self, image: BgrImage) -> Detections:
        whole = image.shape[1] == 1920
        box = (400.0, 300.0, 600.0, 540.0) if whole else (420.0, 320.0, 500.0, 400.0)
        score = self._whole if whole else 0.9
        return Detections(np.array([box], np.float32), np.array([score], np.float32))


def test_a_part_of_a_face_is_no_second_face_unless_it_looks_more_like_one() -> None:
    image = scene(1920, 1080, [])
    assert (400, 300, 600, 540) in boxes_of(Tiles(Parts(0.95)).detect(image))
    assert (420, 320, 500, 400) not in boxes_of(Tiles(Parts(0.95)).detect(image))
    assert (420, 320, 500, 400) in boxes_of(Tiles(Parts(0.7)).detect(image))


@pytest.fixture(scope="module")
def models() -> FaceModels:
    return open_models("compact")


@pytest.mark.models
def test_a_closer_look_finds_real_faces_that_the_light_one_misses(models: FaceModels) -> None:
    import cv2

    picture = cv2.imread(str(sample_path("obama.jpg")))
    assert picture is not None
    hall: NDArray[np.uint8] = np.full((1080, 1920, 3), 120, np.uint8)
    (whole,) = models.detect(picture.astype(np.uint8)).boxes
    scale = 36 / float(whole[2] - whole[0])  # of 1920: a fiftieth
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    places = [(100, 100), (900, 500), (1500, 700)]
    for x, y in places:
        hall[y : y + small.shape[0], x : x + small.shape[1]] = small
    assert len(models.detect(hall)) < 3
    closer = models.detect(hall, closer=True)
    middles = (closer.boxes[:, :2] + closer.boxes[:, 2:]) / 2
    expected = np.array(places) + (whole[:2] + whole[2:]) / 2 * scale
    for one in expected:
        assert np.abs(middles - one).max(axis=1).min() < 15
    assert len(closer) == 3


@pytest.mark.models
def test_a_still_of_one_near_face_is_looked_at_once(
    models: FaceModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    detect = Tiles.detect
    monkeypatch.setattr(Tiles, "detect", lambda *arguments: looks.append(1) or detect(*arguments))
    picture = read(sample_path("obama.jpg"))
    assert picture.shape[0] * picture.shape[1] > 1_000_000
    assert len(models.search(picture)) == 1
    assert looks == []
    assert len(models.search(np.full((1080, 1920, 3), 90, np.uint8))) == 0
    assert looks == [1]


@pytest.mark.models
@pytest.mark.parametrize(("size", "side"), [((1280, 720), 64), ((4000, 2250), 130)])
def test_every_face_of_a_crowd_is_found_once(
    models: FaceModels, size: tuple[int, int], side: int
) -> None:
    """Fifty heads, whose faces are some 3 % and 2 % of the picture's width."""
    import cv2

    heads = [
        cv2.resize(head(models, name), (side, side), interpolation=cv2.INTER_AREA)
        for name in ("obama.jpg", "obama2.jpg", "obama3.jpg", "biden.jpg", "astronaut.png")
    ]
    crowd = np.full((size[1], size[0], 3), 110, np.uint8)
    step = (size[0] // 10, size[1] // 5)
    for number in range(50):
        x, y = number % 10 * step[0] + 7 * (number % 3), number // 10 * step[1] + 9
        crowd[y : y + side, x : x + side] = heads[number % 5]
    assert len(models.detect(crowd)) < 50
    detections = models.search(crowd)
    cells = {(int(x // step[0]), int(y // step[1])) for x, y in detections.boxes[:, :2]}
    assert len(detections) == len(cells) == 50


def head(models: FaceModels, name: str) -> BgrImage:
    """The face of a sample picture with some of its surroundings, as wide as high."""
    picture = read(sample_path(name))
    x1, y1, x2, y2 = models.detect(picture).boxes[0]
    half, x, y = (y2 - y1) * 0.8, (x1 + x2) / 2, (y1 + y2) / 2
    return picture[max(0, int(y - half)) : int(y + half), max(0, int(x - half)) : int(x + half)]
