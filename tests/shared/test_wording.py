"""Sentences begin with a capital, addresses do not."""

import pytest

from shared.wording import sentence


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the server cannot be reached", "The server cannot be reached"),
        (
            "http://10.0.0.2:8480/v1/probes answered 503",
            "http://10.0.0.2:8480/v1/probes answered 503",
        ),
        ("", ""),
    ],
)
def test_only_words_get_a_capital(text: str, expected: str) -> None:
    assert sentence(text) == expected
