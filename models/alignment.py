"""Alignment: turns, scales and moves faces to the positions that an embedder expects."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.types import BgrImage
from models.warping import warp
from shared.errors import MalformedInput

SIDE = 112  # pixels of an aligned chip
_LEAST_SPREAD = 1e-12  # square pixels

# Deng et al., "ArcFace", CVPR 2019: left eye, right eye, nose, left and right mouth corner.
REFERENCE: NDArray[np.float32] = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655],
     [70.7299, 92.2041]],
    np.float32,
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """The positions of a face's five points in an embedder's chips, and the size of the chips."""

    size: tuple[int, int]  # width, height in pixels of the chip
    reference: NDArray[np.float32]  # (5, 2) pixels of the chip, in the order of `REFERENCE`


ARCFACE = Alignment((SIDE, SIDE), REFERENCE)


def alignable(points: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Returns which of (n, k, 2) points can be aligned (n,): finite, and not all equal."""
    centred = points - points.mean(axis=1, keepdims=True, dtype=np.float64)
    apart: NDArray[np.bool_] = (centred * centred).sum(axis=(1, 2)) > _LEAST_SPREAD
    return apart


def similarity_transforms(
    points: NDArray[np.floating], reference: NDArray[np.floating] = REFERENCE
) -> NDArray[np.float64]:
    """Returns the similarity transforms (n, 2, 3) from points (n, k, 2) to `reference`.

    The reference is (k, 2). Least squares over rotation, uniform scale and translation (Umeyama,
    1991), without mirroring. In the plane a similarity has two numbers, a and b, besides the
    shift, and a closed form for the whole batch. Raises MalformedInput where all points coincide.
    """
    means = points.mean(axis=1, dtype=np.float64)
    centred = points - means[:, np.newaxis]
    centre = reference.mean(axis=0, dtype=np.float64)
    spread = (centred * centred).sum(axis=(1, 2))
    if not (spread > _LEAST_SPREAD).all():
        raise MalformedInput("points that coincide, or are not finite, show no face to align")
    products = centred.transpose(0, 2, 1) @ (reference - centre) / spread[:, None, None]
    a = products[:, 0, 0] + products[:, 1, 1]
    b = products[:, 0, 1] - products[:, 1, 0]
    transforms = np.empty((len(points), 2, 3))
    transforms[:, 0, 0], transforms[:, 0, 1] = a, -b
    transforms[:, 1, 0], transforms[:, 1, 1] = b, a
    transforms[:, :, 2] = centre - (transforms[:, :, :2] @ means[..., np.newaxis])[..., 0]
    return transforms


def residuals(points: NDArray[np.floating], transforms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns each face's distance from the reference after its transform: RMS, chip pixels."""
    moved = points @ transforms[:, :, :2].transpose(0, 2, 1) + transforms[:, np.newaxis, :, 2]
    misses: NDArray[np.float64] = np.sqrt(((moved - REFERENCE) ** 2).sum(axis=2).mean(axis=1))
    return misses


def align(
    image: BgrImage,
    points5: NDArray[np.float32],
    alignment: Alignment = ARCFACE,
    *,
    eyes_only: bool = False,
) -> NDArray[np.uint8]:
    """Returns chips (n, height, width, 3) BGR of faces by their five points (n, 5, 2) in pixels.

    Pixels outside the picture are black, as in the embedder's training pictures. With `eyes_only`
    nose and mouth do not count: under a mask their points are not known.
    """
    width, height = alignment.size
    chips = np.empty((len(points5), height, width, 3), np.uint8)
    used = slice(0, 2 if eyes_only else 5)
    transforms = similarity_transforms(points5[:, used], alignment.reference[used])
    for chip, transform in zip(chips, transforms, strict=True):
        chip[:] = warp(image, transform, alignment.size, cv2.BORDER_CONSTANT)
    return chips
