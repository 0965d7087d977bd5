"""Topics, identifiers and time."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.clock import SystemClock, rfc3339
from shared.errors import MalformedInput
from shared.ids import NAME_PATTERN, is_name, new_id
from shared.wire.topics import DeviceTopics, any_device

names = st.from_regex(NAME_PATTERN, fullmatch=True)


@given(names, names)
def test_a_topic_names_its_device_and_kind(site: str, device: str) -> None:
    topics = DeviceTopics(site, device)
    assert DeviceTopics.parse(topics.probe) == (topics, "probe")
    assert DeviceTopics.parse(topics.receipt) == (topics, "receipt")
    assert DeviceTopics.parse(topics.status) == (topics, "status")


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "muster/v1/home/box",
        "muster/v2/home/box/probe",
        "muster/v1/home/box/probe/more",
        "muster/v1/home/box/password",
        "muster/v1/+/box/probe",
        "muster/v1//box/probe",
    ],
)
def test_a_foreign_topic_is_refused(topic: str) -> None:
    with pytest.raises(MalformedInput):
        DeviceTopics.parse(topic)


def test_a_shared_subscription_names_its_group() -> None:
    assert any_device("probe", group="ingest") == "$share/ingest/muster/v1/+/+/probe"
    assert any_device("status") == "muster/v1/+/+/status"


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a b", "a" * 64, "ä", "..", "a\n"])
def test_what_could_leave_a_folder_or_a_topic_is_no_name(name: str) -> None:
    assert not is_name(name)


def test_ids_are_in_the_order_of_their_creation() -> None:
    ids = [new_id() for _ in range(1000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 1000


def test_times_are_written_in_utc_with_milliseconds() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678_900, tzinfo=timezone(timedelta(hours=2)))
    assert rfc3339(moment) == "2026-01-02T01:04:05.678Z"
    with pytest.raises(ValueError, match="timezone"):
        rfc3339(moment.replace(tzinfo=None))


def test_the_system_clock_knows_its_timezone_and_does_not_go_back() -> None:
    clock = SystemClock()
    assert clock.now().tzinfo is UTC
    assert clock.monotonic_s() <= clock.monotonic_s()
