"""Turning, scaling and moving faces so that eyes, nose and mouth lie where the embedder learnt."""

import cv2
import numpy as np
from numpy.typing import NDArray

from models.crops import warp
from models.types import BgrImage
from shared.errors import MalformedInput

SIDE = 112  # pixels of an aligned chip

# Deng et al., "ArcFace", CVPR 2019: left eye, right eye, nose, left and right mouth corner.
REFERENCE: NDArray[np.float32] = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655],
     [70.7299, 92.2041]],
    np.float32,
)  # fmt: skip


def similarity_transforms(
    points: NDArray[np.floating], reference: NDArray[np.floating] = REFERENCE
) -> NDArray[np.float64]:
    """The similarity transforms (n, 2, 3) that bring points (n, k, 2) closest to `reference`.

    The reference is (k, 2). Least squares over rotation, uniform scale and translation (Umeyama,
    1991), without mirroring. In the plane a similarity is z → a·z + b of complex numbers, which
    has a closed form for the whole batch. Raises MalformedInput where all points coincide.
    """
    source = points[..., 0].astype(np.float64) + 1j * points[..., 1]
    target = reference[:, 0].astype(np.float64) + 1j * reference[:, 1]
    source_mean = source.mean(axis=1, keepdims=True)
    centred = source - source_mean
    spread = (centred.real**2 + centred.imag**2).sum(axis=1)
    if not (spread > 1e-12).all():
        raise MalformedInput("points that coincide, or are not finite, show no face to align")
    a = centred.conj() @ (target - target.mean()) / spread
    b = target.mean() - a * source_mean[:, 0]
    rows = np.stack([a.real, -a.imag, b.real, a.imag, a.real, b.imag], axis=1)
    return rows.reshape(-1, 2, 3)


def residuals(points: NDArray[np.floating]) -> NDArray[np.float64]:
    """How badly each of (n, 5, 2) fits the reference after alignment: RMS in pixels of the chip."""
    transforms = similarity_transforms(points)
    moved = np.einsum("nij,nkj->nki", transforms[:, :, :2], points) + transforms[:, None, :, 2]
    misses: NDArray[np.float64] = np.sqrt(((moved - REFERENCE) ** 2).sum(axis=2).mean(axis=1))
    return misses


def align(image: BgrImage, points5: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Chips (n, 112, 112, 3) BGR of the faces whose five points (n, 5, 2) are given in pixels.

    What lies outside the picture is black, as it was for the embedder's training pictures.
    """
    chips = np.empty((len(points5), SIDE, SIDE, 3), np.uint8)
    for chip, transform in zip(chips, similarity_transforms(points5), strict=True):
        chip[:] = warp(image, transform, (SIDE, SIDE), cv2.BORDER_CONSTANT)
    return chips
