"""Thousands of generated requests: the responses must match the OpenAPI document."""

import pytest

from tests.attacks.api import attacked, round_of_requests


@pytest.mark.models
def test_every_response_has_a_documented_status_and_schema(tmp_path):
    with attacked(tmp_path) as (base, admin):
        assert round_of_requests(base, admin, tmp_path, seed=7) > 1000
