"""Chooses the pack whose detector is used."""

from dataclasses import dataclass

from models.packs.manifest import Pack


@dataclass(frozen=True, slots=True)
class DetectorChoice:
    """The pack whose detector is used with any pack of templates."""

    chosen: str | None = None  # by the operator, for all packs
    spare: str = "compact"  # for packs that have no detector

    def of(self, pack: Pack) -> str | None:
        """Returns the pack of the detector; None for the same pack."""
        has_detector = pack.file_for("detector") is not None
        return self.chosen or (None if has_detector else self.spare)
