"""The template codec: what is a template, and what travels."""

import base64

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shared.errors import MalformedInput
from shared.wire.template import Template, decode_template, encode_template, unit_rows

MODEL = "test-model@1"


def a_template(seed: int = 0, dimension: int = 512) -> Template:
    row = np.random.default_rng(seed).normal(size=(1, dimension))
    return Template(MODEL, unit_rows(row)[0])


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 128, 512, 4096]))
def test_a_template_survives_the_wire_up_to_float16_rounding(seed: int, dimension: int) -> None:
    template = a_template(seed, dimension)
    decoded = decode_template(encode_template(template), MODEL)
    assert decoded.model_id == MODEL
    np.testing.assert_array_equal(
        decoded.vector, template.vector.astype(np.float16).astype(np.float32)
    )


@given(arrays(np.float64, (3, 16), elements=st.floats(-1e6, 1e6, width=32)))
def test_unit_rows_have_length_one_and_keep_their_direction(
    features: np.ndarray[tuple[int, int], np.dtype[np.float64]],
) -> None:
    norms = np.linalg.norm(features, axis=1)
    if (norms < 1e-12).any():
        with pytest.raises(MalformedInput, match="no direction"):
            unit_rows(features)
        return
    rows = unit_rows(features)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(rows * norms[:, None], features, rtol=1e-5, atol=1e-5)


def test_the_wire_form_is_little_endian_float16() -> None:
    raw = base64.b64decode(encode_template(a_template()))
    assert len(raw) == 1024
    first = np.frombuffer(raw[:2], dtype="<f2")[0]
    assert first == np.float16(a_template().vector[0])


@pytest.mark.parametrize(
    ("vector", "complaint"),
    [
        (np.zeros(512, np.float32), "unit length"),
        (np.full(512, 1.0, np.float32), "unit length"),
        (np.full(512, np.nan, np.float32), "finite"),
        (np.array([np.inf], np.float32), "finite"),
        (np.ones((1, 1), np.float32), "one row"),
        (np.empty(0, np.float32), "one row"),
    ],
)
def test_what_is_no_unit_vector_cannot_become_a_template(
    vector: np.ndarray[tuple[int, ...], np.dtype[np.float32]], complaint: str
) -> None:
    with pytest.raises(MalformedInput, match=complaint):
        Template(MODEL, vector)


@pytest.mark.parametrize(
    "text",
    ["", "not base64!", base64.b64encode(b"odd").decode(), base64.b64encode(bytes(8194)).decode()],
)
def test_text_that_is_no_template_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(MalformedInput, match="float16"):
        decode_template(text, MODEL)


def test_a_template_cannot_be_changed_behind_its_back() -> None:
    source = unit_rows(np.ones((1, 4)))[0]
    template = Template(MODEL, source)
    source[0] = 5
    assert template.vector[0] == np.float32(0.5)
    with pytest.raises(ValueError, match="read-only"):
        template.vector[0] = 1
