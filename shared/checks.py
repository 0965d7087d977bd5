"""The result of one check of `edge-agent doctor` or `match-server doctor`."""

from dataclasses import dataclass
from typing import Final, Literal

_MARKS: Final = {"well": "ok ", "doubtful": "hm ", "bad": "BAD"}


@dataclass(frozen=True, slots=True)
class Check:
    """What was checked, the result in a sentence, and what to do about it."""

    name: str
    state: Literal["well", "doubtful", "bad"]
    message: str
    advice: str = ""

    @property
    def ok(self) -> bool:
        return self.state != "bad"

    def as_text(self) -> str:
        advice = f"\n      → {self.advice}" if self.advice else ""
        return f"{_MARKS[self.state]} {self.name}: {self.message}{advice}"
