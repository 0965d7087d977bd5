"""Reference calibrations of model packs, for collections without a calibration of their own."""

import logging
import threading
from collections.abc import Callable

from pydantic import JsonValue, ValidationError

from match_server.calibration.calibration import Calibration
from match_server.schemas.calibrations import CalibrationFile
from match_server.schemas.collections import DEFAULT_FPIR, DEFAULT_MARGIN
from models.packs.references import reference_of, threshold_of

log = logging.getLogger(__name__)

UNKNOWN_MODEL_THRESHOLD = 0.5
"""The threshold of a model whose manifest has none: high, to avoid false matches."""


class ReferenceCalibrations:
    """The calibrations and thresholds of model packs, by model. Thread-safe."""

    def __init__(
        self,
        find_reference: Callable[[str], bytes | None] = reference_of,
        find_threshold: Callable[[str], float | None] = threshold_of,
    ) -> None:
        self._find_reference = find_reference
        self._find_threshold = find_threshold
        self._lock = threading.Lock()
        self._calibrations: dict[str, Calibration | None] = {}

    def calibration(self, model_id: str) -> Calibration | None:
        """The reference calibration of a model, None where its pack has none; read once."""
        with self._lock:
            if model_id not in self._calibrations:
                self._calibrations[model_id] = self._read(model_id)
            return self._calibrations[model_id]

    def threshold(self, model_id: str) -> float:
        """The threshold of a model's manifest, used without a calibration."""
        return self._find_threshold(model_id) or UNKNOWN_MODEL_THRESHOLD

    def missed(self, model_id: str) -> list[float] | None:
        """The shares missed with one, two and three references; None if they were not measured."""
        calibration = self.calibration(model_id)
        if calibration is None or calibration.file.reference is None:
            return None
        return calibration.file.reference.missed

    def default_policy(self, model_id: str) -> dict[str, JsonValue]:
        """The policy of a new collection of this model for which none is given."""
        if self.calibration(model_id) is not None:
            return {"target_fpir": DEFAULT_FPIR, "margin": DEFAULT_MARGIN}
        threshold = self.threshold(model_id)
        log.warning(
            "No reference calibration of %s: a new collection names people from %.3g, whatever "
            "its size. Measure one: match-server evaluate FOLDER --adopt",
            model_id,
            threshold,
        )
        return {"threshold": threshold}

    def _read(self, model_id: str) -> Calibration | None:
        content = self._find_reference(model_id)
        if content is None:
            return None
        try:
            file = CalibrationFile.model_validate_json(content)
        except ValidationError as error:
            log.error("Ignored invalid reference calibration of %s: %s", model_id, error)
            return None
        if file.model_id != model_id or file.reference is None or file.sha256 != file.digest():
            log.error("Ignored damaged reference calibration of %s: pull the pack again", model_id)
            return None
        return Calibration(file)
