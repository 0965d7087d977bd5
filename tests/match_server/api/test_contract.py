"""The OpenAPI document against the running server: thousands of odd requests."""

import pytest

from tests.attacks.api import attacked, round_of_all


@pytest.mark.models
def test_no_request_finds_a_status_or_a_shape_that_the_document_does_not_have(tmp_path):
    with attacked(tmp_path) as (base, admin):
        assert round_of_all(base, admin, tmp_path, seed=7) > 1000
