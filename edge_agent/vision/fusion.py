"""One template of several shots of one track."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from shared.fusion import weighted_mean
from shared.wire.template import Template


@dataclass(slots=True)
class FusedShots:
    """The best shots of a track, which surely show one person, and their mean template."""

    _shots: list[tuple[float, Template]] = field(default_factory=list)  # best score first

    def __len__(self) -> int:
        return len(self._shots)

    @property
    def best_score(self) -> float:
        """The highest quality score of the shots; 0 without shots."""
        return max((score for score, _ in self._shots), default=0.0)

    @property
    def template(self) -> Template:
        """The mean template. Raises ValueError without shots."""
        return fuse(self._shots)

    def agrees(self, template: Template, alike: float) -> bool:
        """Whether the cosine to each of the shots is at least `alike`."""
        return all(float(other.vector @ template.vector) >= alike for _, other in self._shots)

    def add(self, score: float, template: Template, most: int, alike: float) -> None:
        """Adds a shot and keeps the best `most`; one that does not agree replaces them all."""
        if not self.agrees(template, alike):
            self._shots.clear()
        self._shots.append((score, template))
        self._shots.sort(key=lambda pair: -pair[0])
        del self._shots[most:]


def fuse(shots: Sequence[tuple[float, Template]]) -> Template:
    """The mean of the templates, weighted by their shots' quality scores, at unit length again.

    All must be of one model and one person: opposite templates have no mean direction. For a single
    shot it is that shot's template. Raises ValueError without shots.
    """
    if not shots:
        raise ValueError("there is no shot to fuse")
    if len(shots) == 1:
        return shots[0][1]
    return weighted_mean(shots)[0]
