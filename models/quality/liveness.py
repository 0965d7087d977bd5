"""Estimates whether a face is live. It is a hint, not a proof."""

import numpy as np
from numpy.typing import NDArray

from models.onnx_session import Session
from models.preprocessing import InputSpec, Layout
from models.types import BgrImage
from models.warping import stretch

_CONTEXT = 2.7  # the crop is so many times the box: screens and paper betray themselves around


class LivenessModel:
    """MiniFASNet-like: judges texture and surroundings of a crop around the face."""

    def __init__(self, session: Session, spec: InputSpec) -> None:
        self._session = session
        self._layout = Layout(spec)
        self._size = spec.size

    def scores(self, image: BgrImage, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns scores (n,) 0..1 of the faces in boxes (n, 4), pixels of `image`, in one run."""
        if len(boxes) == 0:
            return np.empty(0, np.float32)
        crops = [stretch(image, box, self._size) for box in _surroundings(boxes, image.shape)]
        (logits,) = self._session.run_each(self._layout.batch(crops))
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        live: NDArray[np.float32] = weights[:, 0] / weights.sum(axis=1)
        return live


def _surroundings(boxes: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Boxes enlarged about their centres as far as the picture allows, and moved inside it."""
    frame = np.array([shape[1], shape[0]], np.float32)
    sides = boxes[:, 2:] - boxes[:, :2]
    factors = np.minimum(_CONTEXT, (frame / sides).min(axis=1, keepdims=True))
    halves = sides * factors / 2
    centres = np.clip((boxes[:, :2] + boxes[:, 2:]) / 2, halves, frame - halves)
    return np.concatenate([centres - halves, centres + halves], axis=1)
