"""Why a face was not recognised: quality factors in the words of who hung up the camera."""

from typing import Final

NO_LOOK: Final = "no_look"
"""A track that ended before anybody looked at it closely."""

COVERED: Final = "covered"
"""A track that was searched for, but of which every shot showed a covered face."""

_PLAIN: Final = {
    "interocular": "too small",
    "size": "too small",
    "brightness": "too dark or too bright",
    "yaw": "turned away",
    "pitch": "turned away",
    "roll": "turned away",
    "sharpness": "blurred",
    "liveness": "not live",
    "missing": "partly outside of the picture",
    "distance2center": "partly outside of the picture",
    NO_LOOK: "in view too briefly",
    COVERED: "covered (searched all the same)",
}

PHOTO_TERMS: Final = {
    **_PLAIN,
    "interocular": "the face is too small",
    "size": "the face is too small",
    "pitch": "looking up or down",
    "roll": "tilted",
    "liveness": "looks like a picture of a picture",
    "occlusion": "covered",  # also of factors whose names begin so
    "align_score": "the face is not seen clearly",
    "eyes_open": "eyes closed",
    "mouth_open": "mouth open",
    "no_face": "no face was found in it",
    "doubtful_face": "hardly a face",
}
"""The same for the photos that a person enrolls, who can see what is meant."""


def in_plain_terms(factor: str) -> str:
    """What a quality factor that did not pass means to the person who hung up the camera."""
    if factor.startswith("occlusion"):
        return "covered"
    return _PLAIN.get(factor, "unclear")
