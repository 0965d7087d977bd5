"""Which pack finds the faces of which other pack's templates."""

from dataclasses import dataclass

from models.packs.manifest import Pack


@dataclass(frozen=True, slots=True)
class DetectorChoice:
    """Which pack's detector looks at pictures, whichever pack makes the templates."""

    chosen: str | None = None  # by the operator, for all packs
    spare: str = "compact"  # for packs that have no detector

    def of(self, pack: Pack) -> str | None:
        """The pack to take the detector from; None: the same pack."""
        has_detector = pack.file_for("detector") is not None
        return self.chosen or (None if has_detector else self.spare)
