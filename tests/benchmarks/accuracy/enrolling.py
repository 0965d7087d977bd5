"""Which pictures are enrolled: with several faces, one face or none, as the server chooses."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from match_server.picture_folder import pictures_in
from match_server.services.faces.face_choice import FaceChoice
from match_server.services.faces.face_engine import FaceEngine
from shared.errors import MusterError, NoFace, SeveralFaces
from tests.benchmarks.accuracy.bench import Bench
from tests.benchmarks.accuracy.pictures import engine_of
from tests.benchmarks.tables import Row

_MOST = 1_000  # pictures of people
_PAIRS = 200
_DRAWN = 200

Bgr = NDArray[np.uint8]


def enrolling_rows(bench: Bench) -> list[Row]:
    """Refusals of pictures of the measured people, and of pictures without people."""
    engine = engine_of(bench.packs[0])
    faces = bench.faces()
    rng = np.random.default_rng(34)
    measured = [
        place
        for place, person in enumerate(faces.persons.tolist())
        if faces.looks[place].faces and faces.in_half(faces.names[person], bench.half)
    ]
    chosen = rng.permutation(measured)[:_MOST].tolist()  # some show others in the background
    verdicts = [_verdict(engine, faces.files[place].read_bytes()) for place in chosen]
    alone = [picture.row for picture in faces.usable(bench.half)]
    halves = [faces.files[place].read_bytes() for place in rng.permutation(alone)[: 2 * _PAIRS]]
    both = zip(halves[::2], halves[1::2], strict=False)
    pairs = [_side_by_side(one, other) for one, other in both]
    several = [_verdict(engine, data) for data in pairs if data is not None]
    none = [_verdict(engine, data) for data in without_people(bench.no_faces, rng)]
    return [
        _row("pictures with several like faces refused", several, "several", "100 %"),
        _row("pictures of one person refused for several faces", verdicts, "several", "≤ 1 %"),
        _row("no-faces enrolled without force", none, "enrolled", "≤ 1 %"),
        _row("real faces refused as no face", verdicts, "no_face", "≤ 0.3 %"),
    ]


def _row(what: str, verdicts: list[str], counted: str, aim: str) -> Row:
    number = sum(verdict == counted for verdict in verdicts)
    share = 100 * number / max(len(verdicts), 1)
    return {"what": what, "of": len(verdicts), "share": f"{share:.2f} %", "to reach": aim}


def _verdict(engine: FaceEngine, data: bytes) -> str:
    """What the enrollment of a picture comes to, gate `doorway`."""
    try:
        chosen = engine.chosen(data, FaceChoice(), gate="doorway")
    except SeveralFaces:
        return "several"
    except NoFace:
        return "no_face"
    except MusterError as error:
        return error.code
    return "enrolled" if chosen.face.quality.passed else "quality"


def _side_by_side(one: bytes, other: bytes) -> bytes | None:
    """Two pictures of one face each as one picture of equally large halves."""
    halves = [
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in (one, other)
    ]
    if any(half is None for half in halves):
        return None
    return _png(np.hstack([cv2.resize(half, (250, 250)) for half in halves]))  # type: ignore[arg-type]


def without_people(folder: Path | None, rng: np.random.Generator) -> Iterator[bytes]:
    """The pictures of a folder, else textures and drawn faces."""
    if folder is not None:
        yield from (path.read_bytes() for path in pictures_in(folder))
        return
    for number in range(_DRAWN):
        yield _png(_drawn_face(rng) if number % 2 else _texture(rng))


def _texture(rng: np.random.Generator) -> Bgr:
    side, cells = int(rng.integers(200, 600)), int(rng.integers(4, 40))
    coarse = rng.normal(128, 70, (cells, cells, 3))
    smooth = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    return _pixels(smooth + rng.normal(0, rng.uniform(0, 30), smooth.shape))


def _drawn_face(rng: np.random.Generator) -> Bgr:
    side = int(rng.integers(150, 500))
    picture = np.full((side, side, 3), rng.uniform(0, 255, 3))
    middle, radius = side // 2, int(side * rng.uniform(0.28, 0.45))
    _disc(picture, (middle, middle), (radius, int(radius * 1.1)), rng.uniform(90, 255, 3))
    eye = max(int(radius * rng.uniform(0.06, 0.2)), 2)
    for across in (-1, 1):
        place = (middle + across * int(radius * 0.38), middle - int(radius * 0.2))
        _disc(picture, place, (int(1.6 * eye), eye), (250, 250, 250))
        _disc(picture, place, (eye, eye), rng.uniform(0, 80, 3))
    mouth = (int(radius * rng.uniform(0.25, 0.45)), int(radius * rng.uniform(0.05, 0.25)))
    _disc(picture, (middle, middle + int(radius * 0.4)), mouth, (40, 40, 160))
    return _pixels(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.5, 3)))


def _disc(
    picture: NDArray[np.float64],
    place: tuple[int, int],
    axes: tuple[int, int],
    colour: Iterable[float],
) -> None:
    cv2.ellipse(picture, place, axes, 0, 0, 360, [float(value) for value in colour], -1)


def _pixels(picture: NDArray[np.floating] | cv2.typing.MatLike) -> Bgr:
    return np.clip(picture, 0, 255).astype(np.uint8)


def _png(picture: Bgr) -> bytes:
    return cv2.imencode(".png", picture)[1].tobytes()
