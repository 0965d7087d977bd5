"""CenterFace (Xu et al., 2019): anchor-free, finds far and small faces, slower."""

import cv2
import numpy as np

from models.detectors.base import suppress, with_area
from models.onnx_session import Session
from models.preprocessing import InputSpec, Layout
from models.types import BgrImage, Detections

_STRIDE = 4  # pixels of the graph's input per cell of its heat map
_MULTIPLE = 32  # the input's sides are multiples of this


class CenterFace:
    """A heat map of face centres with size, offset and five points at each cell."""

    def __init__(
        self,
        session: Session,
        spec: InputSpec,
        *,
        longest_side: int = 960,
        min_score: float = 0.5,
        max_overlap: float = 0.3,
    ) -> None:
        """`longest_side`: larger pictures are reduced to it first (pixels; time grows with it)."""
        self._session = session
        self._layout = Layout(spec)
        self._longest_side = longest_side
        self._min_score = min_score
        self._max_overlap = max_overlap

    def detect(self, image: BgrImage) -> Detections:
        height, width = image.shape[:2]
        size = self.input_size(width, height)
        small: BgrImage = cv2.resize(image, size)  # type: ignore[assignment]
        outputs = self._session.run(self._layout.batch([small]))
        heat, scale, offset, marks = (output[0] for output in outputs)
        rows, columns = np.nonzero(heat[0] >= self._min_score)
        # Heights and widths come as logarithms of cells; offsets and points y before x.
        sides = np.exp(scale[::-1, rows, columns].T) * _STRIDE  # (n, 2) width, height
        cells = np.stack([columns, rows], axis=1).astype(np.float32)
        centres = (cells + offset[::-1, rows, columns].T + 0.5) * _STRIDE
        corners = centres - sides / 2
        points = marks[:, rows, columns].T.reshape(-1, 5, 2)[:, :, ::-1]
        points = points * sides[:, np.newaxis] + corners[:, np.newaxis]
        back = np.array([width / size[0], height / size[1]], np.float32)
        boxes = np.concatenate([corners * back, (corners + sides) * back], axis=1)
        return with_area(suppress(boxes, heat[0, rows, columns], self._max_overlap, points * back))

    def input_size(self, width: int, height: int) -> tuple[int, int]:
        """The size (width, height) at which a picture of that size is looked at."""
        shrink = min(1.0, self._longest_side / max(width, height))
        columns, rows = (
            max(1, round(side * shrink / _MULTIPLE)) * _MULTIPLE for side in (width, height)
        )
        return columns, rows
