"""Fetching a file over HTTP, from a server that does not always play along."""

from pathlib import Path

import pytest

from models.packs.download import download
from models.packs.manifest import Source
from shared.errors import PackError
from tests.support.fake_web import FarWeb

CONTENT = bytes(range(256)) * 8192  # 2 MiB


def fetch(web: FarWeb, target: Path, tries: int = 4) -> list[tuple[int, int]]:
    """Download /file into `target`, without pauses; what was reported on the way."""
    seen: list[tuple[int, int]] = []
    source = Source(url=web.url("/file"), size=1)
    download(source, target, lambda *now: seen.append(now), tries=tries, pause_s=0)
    return seen


def test_a_file_arrives_whole_and_its_progress_is_told(far_web: FarWeb, tmp_path: Path) -> None:
    far_web.files["/file"] = CONTENT
    seen = fetch(far_web, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert seen == sorted(seen)
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_a_cut_connection_is_resumed_where_it_stopped(far_web: FarWeb, tmp_path: Path) -> None:
    far_web.files["/file"] = CONTENT
    far_web.cut_after = [700_000, 300_000]
    fetch(far_web, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert far_web.requested[0] == ("/file", None)
    starts = [int(value[6:-1]) for _, value in far_web.requested[1:] if value]
    assert len(starts) == 2
    assert 0 < starts[0] < starts[1] < len(CONTENT)


def test_an_earlier_attempt_is_continued_by_a_later_one(far_web: FarWeb, tmp_path: Path) -> None:
    far_web.files["/file"] = CONTENT
    (tmp_path / "file").write_bytes(CONTENT[:1000])
    fetch(far_web, tmp_path / "file")
    assert far_web.requested == [("/file", "bytes=1000-")]
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_what_has_arrived_whole_is_not_fetched_again(far_web: FarWeb, tmp_path: Path) -> None:
    far_web.files["/file"] = CONTENT
    (tmp_path / "file").write_bytes(CONTENT)
    assert fetch(far_web, tmp_path / "file") == []
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_more_than_there_is_gets_thrown_away(far_web: FarWeb, tmp_path: Path) -> None:
    far_web.files["/file"] = CONTENT
    (tmp_path / "file").write_bytes(CONTENT + b"of another version")
    fetch(far_web, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_server_without_ranges_is_asked_for_all_again(far_web: FarWeb, tmp_path: Path) -> None:
    far_web.files["/file"] = CONTENT
    far_web.ranges = False
    far_web.cut_after = [700_000]
    fetch(far_web, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_an_overloaded_server_is_tried_again(far_web: FarWeb, tmp_path: Path) -> None:
    far_web.files["/file"] = CONTENT
    far_web.fail_with = [503, 502]
    fetch(far_web, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_server_that_stays_down_is_given_up(far_web: FarWeb, tmp_path: Path) -> None:
    far_web.fail_with = [503] * 10
    with pytest.raises(PackError, match="cannot be fetched"):
        fetch(far_web, tmp_path / "file", tries=3)
    assert len(far_web.requested) == 3


def test_a_missing_file_is_not_tried_again(far_web: FarWeb, tmp_path: Path) -> None:
    with pytest.raises(PackError, match="404"):
        fetch(far_web, tmp_path / "file")
    assert len(far_web.requested) == 1


def test_no_network_is_said_in_a_sentence(tmp_path: Path) -> None:
    with FarWeb() as gone:
        url = gone.url("/file")
    source = Source(url=url, size=1)
    with pytest.raises(PackError, match="no network, or the server does not answer"):
        download(source, tmp_path / "file", lambda *_: None, tries=2, pause_s=0)
