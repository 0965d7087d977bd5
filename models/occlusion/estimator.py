"""The occlusion network, run: from aligned chips to the share of each region that is covered."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from models.occlusion.regions import CELLS, region_weights, shares
from models.onnx_session import Session
from models.preprocessing import InputSpec, Layout

WEIGHTS = Path(__file__).with_name("occlusion.onnx")
"""Ours, made by `tools.occlusion.train`, and so the only weights that are committed."""

INPUT = InputSpec(width=56, height=56, colour="gray", mean=127.5, divisor=64.0)

# The network's probabilities are read between these ends: its doubt about cells of bare faces (0.1
# and more in one of twenty, measured) then adds up to 0.016 of the face instead of 0.025.
_NONE, _ALL = 0.25, 0.75


class OcclusionModel:
    """Judges which cells of a chip show something else than the face that lies there."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._layout = Layout(INPUT)
        self._weights = region_weights()

    def maps(self, chips: NDArray[np.uint8]) -> NDArray[np.float32]:
        """How covered each cell (n, 28, 28) of chips (n, 112, 112, 3) is: 0 not at all, 1 wholly.

        What is seen as covering: any object before the face, and whatever lies beyond the
        picture's edge. Not: beards, clear glasses, shadows.
        """
        if len(chips) == 0:
            return np.empty((0, CELLS, CELLS), np.float32)
        small = [cv2.resize(chip, INPUT.size, interpolation=cv2.INTER_AREA) for chip in chips]
        (probabilities,) = self._session.run_each(self._layout.batch(small))
        read: NDArray[np.float32] = np.clip((probabilities[:, 0] - _NONE) / (_ALL - _NONE), 0, 1)
        return read

    def factors(
        self, chips: NDArray[np.uint8], outside: NDArray[np.bool_]
    ) -> dict[str, NDArray[np.float32]]:
        """The factors `occlusion_*` (n,) of chips; `outside` (n, 28, 28) is not in the picture."""
        return shares(np.where(outside, np.float32(1), self.maps(chips)), self._weights)
