"""The field of a picture in JSON: base64 as Python decodes it, whatever decodes it."""

import base64
import binascii
import random

import pytest
from pydantic import TypeAdapter, ValidationError

from match_server.schemas.base import Picture

PICTURE = TypeAdapter(Picture)
_CHARACTERS = "AQgw019+/-_=\n é\x00"


def test_base64_is_decoded_and_refused_as_by_python() -> None:
    rng = random.Random(3)
    refused = 0
    for _ in range(3000):
        data = rng.randbytes(rng.randrange(12))
        characters = list(base64.b64encode(data).decode())
        for _ in range(rng.randrange(3)):
            characters.insert(rng.randint(0, len(characters)), rng.choice(_CHARACTERS))
        text = "".join(characters)
        try:
            expected = base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError):
            refused += 1
            with pytest.raises(ValidationError, match="is not base64"):
                PICTURE.validate_python(text)
        else:
            assert PICTURE.validate_python(text) == expected
    assert 500 < refused < 2500


@pytest.mark.parametrize("width", [64, 76])
def test_wrapped_base64_is_decoded(width: int) -> None:
    data = random.Random(4).randbytes(5000)
    text = base64.b64encode(data).decode()
    lines = [text[start : start + width] for start in range(0, len(text), width)]
    assert PICTURE.validate_python("\r\n".join(lines)) == data
