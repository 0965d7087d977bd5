"""What helps most to recognise a person: more pictures, best from the camera itself."""

from collections.abc import Sequence

ENOUGH = 3
"""References from which a further one adds little (decision 34)."""


def advice(references: int, missed: Sequence[float] | None) -> str | None:
    """What to do for a person with so many references; None: nothing.

    `missed` are the shares of searches that miss a person with one, two and three references, as
    the reference calibration of the model has them; None where it has none.
    """
    if references >= ENOUGH:
        return None
    if references == 0:
        return "no picture: nobody is recognised by this name until one is enrolled"
    more = ENOUGH - references
    said = f"{_NUMBERS[references]}: enroll {_MORE[more]} more, best from the camera itself"
    if missed is None:
        return said
    now, then = (f"{share * 100:.1f}" for share in (missed[references - 1], missed[ENOUGH - 1]))
    return (
        f"{said}; of people who pass a camera, {now} % are missed with {references}, {then} % "
        f"with {ENOUGH} (measured on photographs)"
    )


_NUMBERS = {1: "one picture", 2: "two pictures"}
_MORE = {1: "one", 2: "two"}
