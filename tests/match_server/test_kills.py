"""Import, key rotation and migration are killed at a write, and called again: nothing is lost."""

import pytest

from tests.match_server.kills import SCENARIOS, trial


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_command_that_is_killed_does_all_of_it_the_next_time(tmp_path, name):
    assert trial(SCENARIOS[name], tmp_path, kills=2, seed=4) == []
