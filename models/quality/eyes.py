"""Estimates whether eyes are open, in stills of faces that are large enough."""

import numpy as np
from numpy.typing import NDArray

from models.onnx_session import Session
from models.preprocessing import InputSpec, Layout
from models.types import BgrImage
from models.warping import stretch

_LEFT, _RIGHT = slice(36, 42), slice(42, 48)  # of the 68 points
_WIDTH = 1.6  # of the crop, in widths of the eye
LEAST_INTEROCULAR = 35.0
"""Pixels between the eyes: below, open eyes were judged closed in the sample film."""


class EyesModel:
    """Judges each eye by a small gray crop around its lids."""

    def __init__(self, session: Session, spec: InputSpec) -> None:
        self._session = session
        self._layout = Layout(spec)
        self._size = spec.size

    def open_scores(self, image: BgrImage, points68: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns how likely each face's eyes are open (n,) 0..1; the less open eye counts."""
        if len(points68) == 0:
            return np.empty(0, np.float32)
        eyes = np.concatenate([points68[:, _LEFT], points68[:, _RIGHT]])  # (2n, 6, 2)
        centres = eyes[:, [1, 2, 4, 5]].mean(axis=1)
        widths = np.linalg.norm(eyes[:, 3] - eyes[:, 0], axis=1, keepdims=True)
        halves = np.maximum(widths * (_WIDTH / 2), 1.0)
        boxes = np.concatenate([centres - halves, centres + halves], axis=1)
        crops = [stretch(image, box, self._size) for box in boxes]
        (logits,) = self._session.run_each(self._layout.batch(crops))  # (2n, 2) closed, open
        is_open = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
        scores: NDArray[np.float32] = is_open.reshape(2, -1).min(axis=0)
        return scores
