"""Shared by all sections of the accuracy benchmark: the folder, its templates, the policies."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from match_server.calibration.calibration import Calibration
from match_server.calibration.comparisons import compare
from match_server.evaluation.measurement import measure
from match_server.schemas.collections import Policy
from match_server.services.policy.operating_point import OperatingPoint
from match_server.services.policy.reference_calibrations import ReferenceCalibrations
from tests.benchmarks.accuracy.pictures import LIKE_SIDE, Faces, Half, engine_of, look_at
from tests.benchmarks.accuracy.trials import Json, enrollable, point_of

OLD, NEW = "0.35", "default"


@dataclass(slots=True)
class Bench:
    """One run: a folder of labelled pictures, seen by one pack or by several."""

    folder: Path
    packs: tuple[str, ...]  # the first is the one that policies are measured with
    half: Half | None  # of the people; None: all of them
    no_faces: Path | None = None  # pictures without people; None: generated ones
    policies: tuple[str, ...] = (OLD, NEW)
    _references: ReferenceCalibrations = field(default_factory=ReferenceCalibrations)
    _faces: dict[str, Faces] = field(default_factory=dict)
    _calibrations: dict[str, Calibration | None] = field(default_factory=dict)

    def faces(self, pack: str | None = None) -> Faces:
        """The pictures as a pack sees them; without a name, as the first one does."""
        name = pack or self.packs[0]
        if name not in self._faces:
            self._faces[name] = look_at(self.folder, name, engine_of(name))
        return self._faces[name]

    def calibration(self, pack: str | None = None) -> Calibration | None:
        """Of a half: what is measured on the other half. Else the pack's own reference."""
        name = pack or self.packs[0]
        if name not in self._calibrations:
            model_id = self.faces(name).model_id
            self._calibrations[name] = (
                self._measured(name) if self.half else self._references.calibration(model_id)
            )
        return self._calibrations[name]

    def policy(self, name: str, model_id: str) -> Json:
        """The policy of that name; the default one is what a new collection gets."""
        if name == OLD:
            return {"threshold": 0.35}
        return Policy().model_dump(mode="json") | self._references.default_policy(model_id)

    def point(
        self, policy: str, persons: int, templates: int, pack: str | None = None
    ) -> OperatingPoint:
        """The operating point of a policy by its name, with so many enrolled."""
        faces, calibration = self.faces(pack), self.calibration(pack)
        stored = self.policy(policy, faces.model_id)
        return point_of(stored, calibration, persons, templates, faces.model_id)

    def description(self) -> str:
        """Describes the pictures and those left out."""
        faces = self.faces()
        usable = faces.usable(self.half)
        passed = enrollable(usable)
        people = len({one.person for one in usable})
        without = sum(not look.faces for look in faces.looks)
        several = sum(look.second >= LIKE_SIDE for look in faces.looks)
        part = f"; half {self.half} of the people is measured" if self.half else ""
        return (
            f"{len(faces.files):,} pictures of {len(faces.names):,} people: in {without:,} no face "
            f"is found, {several:,} show several faces of like size{part}. Measured: "
            f"{len(usable):,} pictures of {people:,} people; {len(passed):,} pass the gate of "
            f"enrollment. {self._calibration_words()}"
        )

    def _calibration_words(self) -> str:
        if self.half:
            return "Calibrated on the other half."
        calibration = self.calibration()
        if calibration is None:
            return "The pack brings no reference calibration: its manifest's threshold decides."
        data = calibration.file.data
        return (
            f"Decided by the pack's reference calibration of {data.pictures:,} pictures of "
            f"{data.persons:,} people; if these are the same pictures, measure with --half."
        )

    def _measured(self, pack: str) -> Calibration:
        faces = self.faces(pack)
        pictures = enrollable(faces.usable("b" if self.half == "a" else "a"))
        rows = faces.rows[[one.row for one in pictures]]
        numbers = {person: n for n, person in enumerate({one.person for one in pictures})}
        persons = np.array([numbers[one.person] for one in pictures], np.int64)
        measured = measure(
            compare(rows, persons),
            model_id=faces.model_id,
            gate="doorway",
            refused=0,
            now=datetime.now(UTC),
        )
        return Calibration(measured.file)
