"""How much work one camera may cause: reduced while the device is overloaded."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoadProfile:
    """Limits on the work for one camera. A new profile applies from the next frame on.

    The defaults reduce nothing. A profile never adds to what the settings allow: of two frame
    rates the lower one applies, of two intervals the longer one.
    """

    detect_every: int = 1  # frames: search for faces in every n-th frame only
    max_fps: float | None = None  # frames a second that are processed, the newest each time
    liveness: bool = True  # False: no face is refused because of its liveness score
    occlusion: bool = True  # False: covered faces are embedded like others
    closer_looks: bool = True  # False: far faces are found later or never

    @property
    def reductions(self) -> list[str]:
        """What is reduced, in the form of a health message; empty where nothing is."""
        reduced = []
        if self.detect_every > 1:
            reduced.append(f"detect_every={self.detect_every}")
        if self.max_fps is not None:
            reduced.append(f"max_fps={self.max_fps:g}")
        reduced += [
            name for name in ("liveness", "occlusion", "closer_looks") if not getattr(self, name)
        ]
        return reduced
