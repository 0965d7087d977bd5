"""Each fuzzer for a moment, with a fixed seed; `./dev bench attack` runs them for longer.

Those that attack a running server or broker stand where these are started (test_contract.py,
test_processes.py, test_ingest.py).
"""

import importlib

import pytest

FUZZERS = ("archives", "kills", "pictures", "qr", "segments")


@pytest.mark.filterwarnings("ignore")  # of decoders, about damaged files
@pytest.mark.parametrize("name", FUZZERS)
def test_a_second_of_hostile_input_ends_in_our_own_errors(name: str) -> None:
    assert importlib.import_module(f"tests.attacks.{name}").run(1.0, seed=11)


def test_every_attack_is_run_by_the_benchmark() -> None:
    from tests.benchmarks.attack import _names

    assert {*FUZZERS, "api", "clients", "mqtt"} <= set(_names())
    for name in _names():
        assert callable(importlib.import_module(f"tests.attacks.{name}").run)
