"""What may be changed of a camera's work while it runs: to shed load, and to take it up again."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Knobs:
    """How much work one camera may be. A new value holds from the next frame on.

    The defaults give up nothing. A knob only ever takes away from what the settings allow: of two
    frame rates the lower one holds, of two intervals the longer one.
    """

    detect_every: int = 1  # frames: look for faces in every n-th one only
    max_fps: float | None = None  # frames a second that are looked at, the newest each time
    liveness: bool = True  # without it, no face is refused for seeming not to be live
    occlusion: bool = True  # without it, covered faces are embedded like others
    closer_looks: bool = True  # without them, far faces are found later or never

    @property
    def given_up(self) -> list[str]:
        """What is done without, in the words of a health message; empty when nothing is."""
        gave_up = []
        if self.detect_every > 1:
            gave_up.append(f"detect_every={self.detect_every}")
        if self.max_fps is not None:
            gave_up.append(f"max_fps={self.max_fps:g}")
        gave_up += [
            name for name in ("liveness", "occlusion", "closer_looks") if not getattr(self, name)
        ]
        return gave_up
