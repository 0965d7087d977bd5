"""Ultra-Light RFB-320 (Linzaer): fast, for faces from about 5 % of the frame's width upward."""

import cv2
import numpy as np

from models.detectors.base import suppress, with_area
from models.onnx_session import Session
from models.preprocessing import InputSpec, Layout
from models.types import BgrImage, Detections


class UltraLight:
    """The graph decodes its anchors itself; what is left is to choose and to suppress."""

    def __init__(
        self,
        session: Session,
        spec: InputSpec,
        *,
        min_score: float = 0.65,
        max_overlap: float = 0.4,
    ) -> None:
        self._session = session
        self._layout = Layout(spec)
        self._size = spec.size
        self._min_score = min_score
        self._max_overlap = max_overlap

    def detect(self, image: BgrImage) -> Detections:
        height, width = image.shape[:2]
        small: BgrImage = cv2.resize(self._thinned(image), self._size)  # type: ignore[assignment]
        scores, boxes = self._session.run(self._layout.batch([small]))
        faces = scores[0, :, 1]  # of (1, anchors, 2)
        rows = np.flatnonzero(faces >= self._min_score)
        in_pixels = boxes[0, rows] * np.array([width, height, width, height], np.float32)
        return with_area(suppress(in_pixels, faces[rows], self._max_overlap))

    def _thinned(self, image: BgrImage) -> BgrImage:
        """The rows of `image` that matter: of an odd multiple of the graph's height, such as 720,
        bilinear reduction looks at each middle row alone, but reads them all."""
        multiple, rest = divmod(image.shape[0], self._size[1])
        return image if rest or multiple % 2 == 0 else image[multiple // 2 :: multiple]
