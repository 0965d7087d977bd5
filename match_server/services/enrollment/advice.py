"""Advice for a person with few references: more pictures, best from the camera itself."""

from collections.abc import Sequence

ENOUGH = 3
"""References from which a further one adds little (decision 34)."""


def advice(references: int, missed: Sequence[float] | None) -> str | None:
    """The advice for a person with this many references; None: there are enough.

    `missed` are the shares of searches that miss a person with one, two and three references, as
    the reference calibration of the model has them; None where it has none.
    """
    if references >= ENOUGH:
        return None
    if references == 0:
        return "no picture: nobody is recognised by this name until one is enrolled"
    more = ENOUGH - references
    text = f"{_NUMBERS[references]}: enroll {_MORE[more]} more, best from the camera itself"
    if missed is None:
        return text
    current, enough = (
        f"{share * 100:.1f}" for share in (missed[references - 1], missed[ENOUGH - 1])
    )
    return (
        f"{text}; of people who pass a camera, {current} % are missed with {references}, "
        f"{enough} % with {ENOUGH} (measured on photographs)"
    )


_NUMBERS = {1: "one picture", 2: "two pictures"}
_MORE = {1: "one", 2: "two"}
