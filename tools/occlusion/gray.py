"""Gray pictures as training works on them: float32, 0..255."""

import cv2
import numpy as np
from numpy.typing import NDArray

Gray = NDArray[np.float32]  # (height, width)
Rng = np.random.Generator


def gray(values: NDArray[np.floating | np.integer]) -> Gray:
    """`values` clipped to what a gray picture can show."""
    return np.clip(values, 0, 255).astype(np.float32)


def resized(
    values: NDArray[np.floating | np.integer], side: int, interpolation: int = cv2.INTER_LINEAR
) -> Gray:
    """A square picture or map of `side` pixels."""
    source = np.asarray(values, np.float32)
    return np.asarray(cv2.resize(source, (side, side), interpolation=interpolation), np.float32)


def blurred(values: Gray, sigma: float) -> Gray:
    return np.asarray(cv2.GaussianBlur(values, (0, 0), sigma), np.float32)
