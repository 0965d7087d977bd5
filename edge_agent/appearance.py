"""Cheap looks at whether a picture still shows the same: a scene cut, another face in one place."""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.types import BgrImage

_SCENE_ROWS: Final = 24
_SCENE_COLUMNS: Final = 32
_SCENE_SAME: Final = 0.4  # correlation; the same scene stays above, two scenes are near 0
_PATCH: Final = 12
_FACE_SAME: Final = 0.4
_FLAT: Final = 3.0  # grey levels: below this deviation there is only noise to correlate


class SceneWatch:
    """Notices when a film cuts to another scene. Costs a few hundred samples a frame."""

    def __init__(self) -> None:
        self._before: NDArray[np.float32] | None = None

    def cut(self, image: BgrImage) -> bool:
        """Whether `image` shows another scene than the picture before, not just other light."""
        height, width = image.shape[:2]
        rows = slice(height // _SCENE_ROWS // 2, None, max(1, height // _SCENE_ROWS))
        columns = slice(width // _SCENE_COLUMNS // 2, None, max(1, width // _SCENE_COLUMNS))
        sample = image[rows, columns, 1].astype(np.float32)
        before, self._before = self._before, sample
        if before is None:
            return False
        return before.shape != sample.shape or _correlation(before, sample) < _SCENE_SAME


def face_patch(image: BgrImage, box: tuple[float, float, float, float]) -> NDArray[np.float32]:
    """A coarse grid of samples (12, 12) of the face inside `box`, pixels of `image`."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = box
    columns = np.linspace(x1, x2, _PATCH + 2)[1:-1].clip(0, width - 1).astype(np.intp)
    rows = np.linspace(y1, y2, _PATCH + 2)[1:-1].clip(0, height - 1).astype(np.intp)
    patch: NDArray[np.float32] = image[rows[:, None], columns[None, :], 1].astype(np.float32)
    return patch


def same_face(before: NDArray[np.float32], after: NDArray[np.float32]) -> bool:
    """Whether two patches of successive frames may be one face; False asks for a closer look."""
    return _correlation(before, after) >= _FACE_SAME


def _correlation(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Pearson's correlation; 1 where both are flat, since nothing can be told then."""
    a, b = first - first.mean(), second - second.mean()
    power_a, power_b = float((a * a).mean()), float((b * b).mean())
    if max(power_a, power_b) < _FLAT**2:
        return 1.0
    shared = float((a * b).mean())
    return shared / max(math.sqrt(power_a * power_b), _FLAT**2)
