"""Exponential backoff: pauses between attempts that grow while the attempts fail."""

import random
from typing import Final

from shared.errors import MusterError

_MAX_DOUBLINGS: Final = 30


class Backoff:
    """Computes the pause after a number of failures in a row.

    The first pause is `first_s`; each further failure doubles it, up to `longest_s`.
    """

    def __init__(
        self, first_s: float, longest_s: float, *, jitter: random.Random | None = None
    ) -> None:
        self.first_s = first_s
        self.longest_s = longest_s
        self._jitter = jitter or random.Random()  # noqa: S311  # spreads retries, hides nothing

    def limit_s(self, failures: int) -> float:
        """Returns the pause without jitter after `failures` (at least 1) failures in a row."""
        doublings = min(failures - 1, _MAX_DOUBLINGS)
        return min(self.longest_s, self.first_s * 2.0**doublings)

    def pause_s(self, failures: int, *, at_least_s: float = 0.0) -> float:
        """Returns a random pause between half of the limit and the limit.

        The jitter keeps clients that failed in the same moment from coming back in the same
        moment. `at_least_s` raises the limit, not the pause.
        """
        return max(self.limit_s(failures), at_least_s) * self._jitter.uniform(0.5, 1.0)


def retry_after_s(error: MusterError) -> float:
    """Returns the pause that the server requested with an error (`Retry-After`); 0 without one."""
    seconds = error.details.get("retry_after_s")
    return float(seconds) if isinstance(seconds, int | float) else 0.0
