"""Measures the quality of the occlusion estimate: `python -m tools.occlusion.evaluate`.

On people it never saw: Barack Obama and, where `MUSTER_TEST_FACES` names a folder of people, all
of them.
Needs no torch: the tests measure with the same functions.
"""

import argparse
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from models.alignment import SIDE, similarity_transforms
from models.face_models import FaceModels, open_models
from models.occlusion.estimator import WEIGHTS, OcclusionModel
from models.occlusion.regions import CELLS, FACTORS, outside, region_weights, shares
from models.onnx_session import Session
from models.quality.gates import OFF, PASSPORT
from models.samples import sample_path
from models.types import BgrImage
from tools.occlusion.examples import cells, compressed
from tools.occlusion.gray import Gray, Rng, blurred, gray, resized
from tools.occlusion.occluders import KINDS, Scene, clear_glasses, draw, over

Shares = NDArray[np.float32]  # (n, factors), the columns in the order of `FACTORS`
HELD_OUT = ("obama.jpg", "obama2.jpg", "obama3.jpg")
CUT = ("obama_partial_face.jpg", "obama_partial_face2.jpg")  # of obama.jpg


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """An uncovered face of somebody who was not trained with."""

    person: str
    chip: BgrImage  # (112, 112, 3)
    beyond: NDArray[np.bool_]  # (CELLS, CELLS) what of the chip is not in the picture


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """Chips with something before them, and the truth."""

    kinds: tuple[str, ...]
    people: tuple[str, ...]
    chips: NDArray[np.uint8]  # (n, 112, 112, 3)
    beyond: NDArray[np.bool_]  # (n, CELLS, CELLS)
    truth: Shares


def held_out_samples(models: FaceModels) -> list[Face]:
    return [_face(models, "obama", sample_path(name)) for name in HELD_OUT]


def held_out_people(models: FaceModels, folder: Path) -> list[Face]:
    """Of a folder with a folder a person: one face of each picture that shows one person."""
    return [
        _face(models, person.name, picture)
        for person in sorted(folder.iterdir())
        if person.name != "groups"
        for picture in sorted(person.iterdir())
    ]


def trial(
    faces: Sequence[Face], rng: Rng, *, each: int, kinds: Sequence[str] = tuple(KINDS)
) -> Trial:
    """Each face bare, with clear glasses, and `each` times with every kind of occluder.

    Surfaces out of photographs come from the held-out pictures: none was trained with either.
    """
    scenes = [_gray(face.chip) for face in faces]
    weights = region_weights()
    rows: list[tuple[str, str, NDArray[np.uint8], NDArray[np.bool_], NDArray[np.float32]]] = []
    for face, bare in zip(faces, scenes, strict=True):
        scene = Scene(bare, scenes)
        none = np.zeros((SIDE, SIDE), np.float32)
        rows.append(("none", face.person, face.chip, face.beyond, none))
        glasses = over(bare, clear_glasses(scene, rng))
        rows.append(("clear glasses", face.person, _finished(glasses), face.beyond, none))
        for kind in kinds:
            for _ in range(each):
                occluder = draw(scene, rng, [kind])
                chip = _finished(over(bare, occluder))
                rows.append((kind, face.person, chip, face.beyond, occluder.cover))
    names, people, chips, beyond, covers = zip(*rows, strict=True)
    missing = np.stack(beyond)
    maps = np.where(missing, np.float32(1), np.stack([cells(cover) for cover in covers]))
    truth = np.stack(list(shares(maps, weights).values()), axis=1)
    return Trial(names, people, np.stack(chips), missing, truth)


def estimated(model: OcclusionModel, what: Trial) -> Shares:
    return np.stack(list(model.factors(what.chips, what.beyond).values()), axis=1)


def always_mean(what: Trial) -> Shares:
    """The baseline that looks at nothing: the trial's own mean, which flatters it."""
    return np.broadcast_to(what.truth.mean(axis=0), what.truth.shape)


def by_level(what: Trial, limit: float = 55.0) -> Shares:
    """The baseline of skin's level: a cell is covered that is far from the face's median gray.

    Eyes, brows and nostrils are dark by nature, which is allowed for by comparing with the mean of
    the trial's bare faces; the limit was chosen on the trial itself, which flatters it.
    """
    levels = np.stack([resized(_gray(chip), CELLS, cv2.INTER_AREA) for chip in what.chips])
    middle = np.median(levels[:, 9:26, 6:22].reshape(len(levels), -1), axis=1)
    relative = levels - middle[:, np.newaxis, np.newaxis]
    bare = relative[[kind == "none" for kind in what.kinds]].mean(axis=0)
    maps = (np.abs(relative - bare) > limit) | what.beyond
    return np.stack(list(shares(maps.astype(np.float32), region_weights()).values()), axis=1)


def area_under_curve(truth: Shares, values: Shares, column: int) -> float:
    """How likely a face of which half the region or more is covered has the higher value.

    Against faces of which at most a twentieth is (Mann and Whitney; ties count half).
    """
    covered = values[truth[:, column] >= 0.5, column]
    bare = values[truth[:, column] <= 0.05, column]
    if len(covered) == 0 or len(bare) == 0:
        return float("nan")
    higher = (covered[:, None] > bare).mean() + (covered[:, None] == bare).mean() / 2
    return float(higher)


def at_limit(
    truth: Shares, values: Shares, column: int, limit: float
) -> tuple[float, float, float]:
    """Of a gate that refuses above `limit`: recall, precision, and the share of bare faces refused.

    Bare is a face of whose region at most a twentieth is covered.
    """
    refused, covered = values[:, column] > limit, truth[:, column] > limit
    recall = float(refused[covered].mean()) if covered.any() else float("nan")
    precision = float(covered[refused].mean()) if refused.any() else float("nan")
    bare = truth[:, column] <= 0.05
    return recall, precision, float(refused[bare].mean())


def cut_faces(models: FaceModels) -> Iterator[tuple[str, Mapping[str, float], Mapping[str, float]]]:
    """Of the pictures that cut a known portrait: name, estimate and truth by factor.

    The truth is where the whole portrait's points lie; the estimate knows the cut one's alone.
    """
    whole = _read(sample_path("obama.jpg"))
    (face,) = models.analyze(whole, gate=OFF, embed=False)
    for name in CUT:
        part = _read(sample_path(name))
        scores = cv2.matchTemplate(whole, part[:, 20:-20], cv2.TM_SQDIFF)
        _, _, (x, y), _ = cv2.minMaxLoc(scores)
        points = face.points5[np.newaxis] - np.array([x - 20, y], np.float32)
        beyond = outside(similarity_transforms(points), (part.shape[1], part.shape[0]))
        truth = shares(beyond.astype(np.float32), region_weights())
        (seen,) = models.analyze(part, gate=OFF, embed=False)
        values = {one.name: one.value for one in seen.quality.factors if one.name in FACTORS}
        yield name, values, {factor: float(share[0]) for factor, share in truth.items()}


def _face(models: FaceModels, person: str, path: Path) -> Face:
    picture = _read(path)
    detections = models.detect(picture, retry_padded=True)
    largest = int(np.argmax(np.prod(detections.boxes[:, 2:] - detections.boxes[:, :2], axis=1)))
    points = models.locate(picture, detections.take(np.array([largest]))).points5
    beyond = outside(similarity_transforms(points), (picture.shape[1], picture.shape[0]))
    return Face(person, models.align(picture, points)[0], beyond[0])


def _finished(face: Gray) -> BgrImage:
    """Pasted things and the face, seen by one lens and compressed by one camera."""
    seen = compressed(gray(blurred(face, 0.7)).astype(np.uint8), 85)
    return np.repeat(seen[..., np.newaxis], 3, axis=2)


def _gray(chip: BgrImage) -> Gray:
    return gray(np.asarray(cv2.cvtColor(chip, cv2.COLOR_BGR2GRAY)))


def _read(path: Path) -> BgrImage:
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR), np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--each", type=int, default=4, help="occluders of a kind for each picture")
    parser.add_argument("--sheet", type=Path, help="also draw examples into this PNG file")
    arguments = parser.parse_args()
    models, model = open_models(), OcclusionModel(Session(arguments.weights))
    sets = {"obama": held_out_samples(models)}
    folder = os.environ.get("MUSTER_TEST_FACES")
    if folder is not None:
        sets["people"] = held_out_people(models, Path(folder))
    for title, faces in sets.items():
        what = trial(faces, np.random.default_rng(7), each=arguments.each)
        _report(title, what, estimated(model, what))
        if arguments.sheet is not None:
            _draw(arguments.sheet.with_stem(f"{arguments.sheet.stem}-{title}"), what, model)
    for name, values, truth in cut_faces(models):
        pairs = ", ".join(f"{key[10:]} {values[key]:.2f} ({truth[key]:.2f})" for key in truth)
        print(f"{name}: estimate (truth): {pairs}")


def _report(title: str, what: Trial, values: Shares) -> None:
    print(f"\n{title}: {len(set(what.people))} people, {len(what.chips)} chips")
    rivals: dict[str, Callable[[Trial], Shares]] = {"mean": always_mean, "level": by_level}
    others = {name: make(what) for name, make in rivals.items()}
    kinds = np.array(what.kinds)
    for column, factor in enumerate(FACTORS):
        miss = np.abs(values - what.truth)[:, column]
        line = [f"{factor[10:]:10} MAE {miss.mean():.3f}"]
        line += [
            f"{name} {np.abs(other - what.truth)[:, column].mean():.3f}"
            for name, other in others.items()
        ]
        line.append(f"AUC {area_under_curve(what.truth, values, column):.3f}")
        line.append(f"level's {area_under_curve(what.truth, others['level'], column):.3f}")
        limit = PASSPORT.ranges[factor][1]
        recall, precision, false = at_limit(what.truth, values, column, limit)
        line.append(f"at {limit}: recall {recall:.3f} precision {precision:.3f} bare {false:.3f}")
        bare = values[kinds == "none", column]
        line.append(f"bare mean {bare.mean():.3f} max {bare.max():.3f}")
        print("  ".join(line))
    for kind in dict.fromkeys(what.kinds):
        misses = np.abs(values - what.truth)[kinds == kind].mean(axis=0)
        print(f"  {kind:14} MAE", " ".join(f"{miss:.3f}" for miss in misses))


def _draw(path: Path, what: Trial, model: OcclusionModel, columns: int = 14, rows: int = 4) -> None:
    picks = np.random.default_rng(1).permutation(len(what.chips))[: columns * rows]
    maps = np.where(what.beyond, np.float32(1), model.maps(what.chips))[picks]
    values = estimated(model, what)[picks]
    tiles = []
    for chip, covered, estimate, true in zip(
        what.chips[picks], maps, values, what.truth[picks], strict=True
    ):
        large = cv2.resize(covered, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)[..., None]
        tinted = (chip * (1 - 0.4 * large) + np.array([0, 0, 255]) * 0.4 * large).astype(np.uint8)
        note = np.zeros((36, SIDE, 3), np.uint8)
        for line, row in enumerate((estimate, true)):
            text = " ".join(f"{round(float(value) * 100)}" for value in row)
            cv2.putText(note, text, (1, 14 + 16 * line), 0, 0.36, (255, 255, 255), 1)
        tiles.append(np.vstack([chip, tinted, note]))
    lines = [np.hstack(tiles[at : at + columns]) for at in range(0, len(tiles), columns)]
    cv2.imwrite(str(path), np.vstack([line for line in lines if line.shape == lines[0].shape]))


if __name__ == "__main__":
    main()
