"""What helps most to recognise a person: more pictures, best from the camera itself."""

ENOUGH = 3
"""References from which a further one adds little (decision 34)."""

_BY_COUNT = {1: 11.2, 2: 4.0, 3: 2.8}
"""FNIR in percent at an FPIR of 1 %, by enrolled pictures: the default pack, measured on
photographs of 314 people (decision 34)."""


def advice(references: int) -> str | None:
    """What to do for a person with so many references; None: nothing."""
    if references >= ENOUGH:
        return None
    if references == 0:
        return "no picture: nobody is recognised by this name until one is enrolled"
    more = ENOUGH - references
    return (
        f"{_NUMBERS[references]}: enroll {_MORE[more]} more, best from the camera itself; of "
        f"people who pass a camera, {_BY_COUNT[references]} % are missed with "
        f"{references}, {_BY_COUNT[ENOUGH]} % with {ENOUGH} (measured on photographs)"
    )


_NUMBERS = {1: "one picture", 2: "two pictures"}
_MORE = {1: "one", 2: "two"}
