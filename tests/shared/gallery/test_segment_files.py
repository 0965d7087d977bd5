"""Segments: shared by processes, never served by half, and never trusted blindly."""

import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import rule

from shared.errors import Unavailable
from shared.gallery import DiskIndex, open_gallery
from tests.shared.gallery.conftest import Oracle, assert_same, random_rows
from tests.shared.gallery.test_changes import Histories
from tests.support.disks import small_disk
from tests.support.gallery_history import D, content, follow, held, opened, rows_of


def assert_content(gallery: DiskIndex, seq: int) -> None:
    assert gallery.watermark == seq
    expected, actual = content(seq), held(gallery)
    assert actual.keys() == expected.keys()
    assert all(np.array_equal(actual[each], expected[each]) for each in expected)


class SharedHistories(Histories):
    """The histories of test_changes, with sealing, compacting and reopening in between."""

    gallery: DiskIndex

    def opened(self) -> DiskIndex:
        self.directory = Path(tempfile.mkdtemp())
        return self.reopened()

    def reopened(self) -> DiskIndex:
        gallery = open_gallery(self.directory, 32, threads=1)
        assert isinstance(gallery, DiskIndex)
        return gallery

    @rule()
    def seal(self) -> None:
        self.gallery.seal()

    @rule()
    def compact(self) -> None:
        self.gallery.compact()
        assert all(
            view.segment.name is None or view.live == view.segment.count
            for view in self.gallery._views
        )

    @rule()
    def close_and_open(self) -> None:
        watermark = self.gallery.watermark
        self.gallery.close()
        self.gallery = self.reopened()
        assert self.gallery.damage is None
        assert self.gallery.watermark <= watermark

    def teardown(self) -> None:
        shutil.rmtree(self.directory)


TestSharedHistories = SharedHistories.TestCase
TestSharedHistories.settings = settings(Histories.TestCase.settings, max_examples=25)


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """A directory with segments, bits of removed templates, and everything up to change 40."""
    gallery = opened(tmp_path)
    for stop in (37, 40):
        follow(gallery, stop)
        assert gallery.seal()
    gallery.close()
    return tmp_path


def test_what_was_sealed_is_there_when_the_directory_is_opened_again(sealed: Path) -> None:
    gallery = opened(sealed)
    assert gallery.damage is None
    assert_content(gallery, 40)
    gallery.verify()
    assert gallery.damage is None
    follow(gallery, 55)
    assert_content(gallery, 55)
    gallery.close()
    assert_content(opened(sealed), 55)


def test_searches_in_segments_are_exact(sealed: Path) -> None:
    gallery, oracle = opened(sealed), Oracle()
    follow(gallery, 50)
    for each, row in content(50).items():
        oracle.add(np.array([each], dtype=np.uint64), row[None].astype(np.float32))
    for probe in random_rows(20, D, seed=3):
        assert_same(gallery.search(probe[None], 9)[0], oracle.search(probe, 9))


def test_changes_that_are_not_sealed_come_again_from_the_feed(sealed: Path) -> None:
    lost = opened(sealed)
    follow(lost, 47)
    again = opened(sealed)
    assert again.watermark == 40
    follow(again, 47)
    assert held(again).keys() == held(lost).keys()


def test_processes_take_over_what_another_has_sealed(sealed: Path) -> None:
    writer, behind, ahead = opened(sealed), opened(sealed), opened(sealed)
    follow(writer, 60)
    follow(behind, 50)
    follow(ahead, 70)
    assert writer.seal()
    assert behind.refresh()
    assert_content(behind, 60)  # the segments are ahead of what it had followed
    assert ahead.refresh()
    assert_content(ahead, 70)  # what came after them stays in its mutable segment
    assert not ahead.refresh()
    follow(behind, 70)
    assert held(behind).keys() == held(ahead).keys()
    assert ahead.seal()
    assert behind.refresh()
    assert_content(behind, 70)


def test_only_one_process_seals_at_a_time(sealed: Path) -> None:
    one, other = opened(sealed), opened(sealed)
    follow(one, 50)
    follow(other, 50)
    with one._directory.locked(wait=True) as mine:
        assert mine
        assert not other.seal(wait=False)
    assert other.seal(wait=False)


def test_nothing_is_written_where_there_is_nothing_to_write(sealed: Path) -> None:
    gallery = opened(sealed)
    before = sorted(path.name for path in sealed.iterdir())
    assert not gallery.seal()
    assert sorted(path.name for path in sealed.iterdir()) == before


def test_a_search_that_runs_while_its_segment_is_merged_away_is_not_disturbed(
    sealed: Path,
) -> None:
    gallery, done = opened(sealed), threading.Event()
    probe = random_rows(1, D, seed=8)
    expected = gallery.search(probe, 5)[0].ids.tolist()
    errors: list[BaseException] = []

    def search() -> None:
        try:
            while not done.is_set():
                assert gallery.search(probe, 5)[0].ids.tolist() == expected
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=search)
    thread.start()
    try:
        for _ in range(10):
            gallery.compact()
    finally:
        done.set()
        thread.join()
    assert not errors
    assert_content(gallery, 40)


def test_the_number_of_segments_stays_small_and_removed_templates_leave_the_disk(
    tmp_path: Path,
) -> None:
    gallery = opened(tmp_path)
    for stop in range(3, 91, 3):
        follow(gallery, stop)
        assert gallery.seal()
    assert len(list(tmp_path.glob("*.segment"))) <= 8
    gallery.compact()
    assert_content(gallery, 90)
    assert sum(view.segment.count for view in gallery._views) == len(content(90))
    assert not list(tmp_path.glob("*.alive"))


def test_full_tails_are_sealed_in_the_background(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.gallery.mutable_segment.FULL", 32)
    monkeypatch.setattr("shared.gallery.memory_index.FULL", 32)
    gallery = opened(tmp_path)
    follow(gallery, 60)
    gallery.close()
    again = opened(tmp_path)
    assert_content(again, 60)


def test_a_rebuild_replaces_everything_and_other_processes_follow(sealed: Path) -> None:
    gallery, other = opened(sealed), opened(sealed)
    follow(other, 45)
    rows = content(44)
    ids = np.array(list(rows), dtype=np.uint64)
    gallery.rebuild([(ids, np.array(list(rows.values())))], 44)
    assert_content(gallery, 44)
    follow(other, 46)
    assert_content(other, 46)
    assert_content(opened(sealed), 44)


def test_an_empty_rebuild_leaves_an_empty_gallery(sealed: Path) -> None:
    gallery = opened(sealed)
    gallery.rebuild([], 50)
    assert (len(gallery), gallery.watermark) == (0, 50)
    assert (len(opened(sealed)), opened(sealed).watermark) == (0, 50)


def _damage(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


def _segment(directory: Path) -> Path:
    return max(directory.glob("*.segment"), key=lambda path: path.stat().st_size)


def _cut(directory: Path) -> None:
    os.truncate(_segment(directory), _segment(directory).stat().st_size - 4096)


def _header(directory: Path) -> None:
    _damage(_segment(directory), 40)


def _no_segment(directory: Path) -> None:
    _segment(directory).unlink()


def _other_segment(directory: Path) -> None:
    one, two = sorted(directory.glob("*.segment"))[:2]
    shutil.copyfile(one, two)


def _bits(directory: Path) -> None:
    _damage(next(directory.glob("*.alive")), 0)


def _no_bits(directory: Path) -> None:
    next(directory.glob("*.alive")).unlink()


def _manifest(directory: Path) -> None:
    _damage(directory / "manifest.json", 30)


def _empty_manifest(directory: Path) -> None:
    (directory / "manifest.json").write_bytes(b"")


@pytest.mark.parametrize(
    "harm",
    [_cut, _header, _no_segment, _other_segment, _bits, _no_bits, _manifest, _empty_manifest],
)
def test_damage_is_found_at_opening_and_healed_by_a_rebuild(sealed: Path, harm: object) -> None:
    assert len(list(sealed.glob("*.segment"))) >= 2
    assert callable(harm)
    harm(sealed)
    gallery = opened(sealed)
    assert gallery.damage is not None
    assert str(sealed) in gallery.damage
    assert (len(gallery), gallery.watermark) == (0, 0)
    assert not gallery.seal()  # an incomplete gallery must not replace a complete one
    rows = content(40)
    gallery.rebuild([(np.array(list(rows), dtype=np.uint64), np.array(list(rows.values())))], 40)
    assert gallery.damage is None
    assert_content(gallery, 40)
    assert_content(opened(sealed), 40)


def test_each_section_of_a_segment_is_verified(sealed: Path) -> None:
    from shared.gallery.codebook import CodeBook
    from shared.gallery.segment_file import _layout

    intact = _segment(sealed).read_bytes()
    groups = max(v.segment.groups for v in opened(sealed)._views if v.segment.name)
    for offset, _, _ in _layout(CodeBook(D), groups).values():
        _damage(_segment(sealed), offset + 5)
        gallery = opened(sealed)
        assert gallery.damage is None  # opening reads headers only
        gallery.verify()
        assert gallery.damage is not None
        with pytest.raises(Unavailable, match="rebuilt"):
            gallery.search(random_rows(1, D), 3)
        _segment(sealed).write_bytes(intact)
        (sealed / "damaged").unlink()


def test_damage_is_not_merged_into_a_sound_segment(sealed: Path) -> None:
    gallery, other = opened(sealed), opened(sealed)
    _damage(_segment(sealed), _segment(sealed).stat().st_size - 4096)
    follow(gallery, 45)
    names = sorted(path.name for path in sealed.glob("*.segment"))
    gallery.compact()
    assert gallery.damage is not None
    assert sorted(path.name for path in sealed.glob("*.segment")) == names
    assert other.damage is None  # it has not looked
    rows = content(46)
    batch = np.array(list(rows), dtype=np.uint64), np.array(list(rows.values()))
    gallery.rebuild([batch], 46)
    for each in (gallery, other):
        follow(each, 47)
        assert each.damage is None
        assert_content(each, 47)


def test_damage_that_one_process_finds_stops_all_until_one_has_rebuilt(sealed: Path) -> None:
    gallery, other = opened(sealed), opened(sealed)
    _damage(_segment(sealed), _segment(sealed).stat().st_size - 4096)
    other.verify()
    with pytest.raises(Unavailable):
        other.search(random_rows(1, D), 3)
    assert len(gallery.search(random_rows(1, D), 3)[0]) == 3  # it has not looked
    assert gallery.refresh()
    with pytest.raises(Unavailable, match="another process"):
        gallery.search(random_rows(1, D), 3)
    assert opened(sealed).damage is not None
    assert not gallery.seal()
    rows = content(41)
    batch = np.array(list(rows), dtype=np.uint64), np.array(list(rows.values()))
    assert gallery.rebuild([batch], 41)
    assert other.refresh()
    for each in (gallery, other, opened(sealed)):
        assert each.damage is None
        assert len(each.search(random_rows(1, D), 3)[0]) == 3


def test_segments_are_verified_before_the_first_search_once_a_run(
    sealed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _damage(_segment(sealed), _segment(sealed).stat().st_size - 4096)
    gallery = opened(sealed)
    gallery.verify_first(lambda: True)
    with pytest.raises(Unavailable):
        gallery.search(random_rows(1, D), 3)
    rows = content(41)
    batch = np.array(list(rows), dtype=np.uint64), np.array(list(rows.values()))
    assert gallery.rebuild([batch], 41)

    def verified() -> bool:
        looked: list[str] = []
        each = opened(sealed)
        monkeypatch.setattr(each, "_intact", lambda *_: looked.append("") or True)
        each.verify_first(lambda: True)
        return bool(looked)

    assert verified()
    assert verified()  # this process has said so itself: it looks again
    with monkeypatch.context() as another_process:
        another_process.setattr("os.getpid", lambda: 1)
        assert not verified()
        another_process.setattr("shared.gallery.disk_index._RUN", "of another server")
        assert verified()


def test_the_erasure_of_a_template_writes_one_bounded_segment_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("compaction", "memory_index"):
        monkeypatch.setattr(f"shared.gallery.{module}.MAX_ROWS", 64)
    gallery = opened(tmp_path)
    for seq in range(1, 101):
        ids = np.arange(4 * seq, 4 * seq + 4, dtype=np.uint64)
        gallery.apply(seq - 1, seq, ids=ids, vectors=rows_of(ids, seq))
        gallery.seal()
    sizes = [view.segment.count for view in gallery._views if view.segment.name]
    assert max(sizes) <= 64
    assert len(sizes) < 20
    before = {path.name for path in tmp_path.glob("*.segment")}
    gallery.apply(100, 101, remove=np.array([200], dtype=np.uint64))
    gallery.compact()
    after = {path.name for path in tmp_path.glob("*.segment")}
    assert (len(after - before), len(before - after)) == (1, 1)
    assert len(gallery) == len(opened(tmp_path)) == 399


def test_a_directory_of_another_gallery_is_not_served(sealed: Path) -> None:
    for dimension, origin in ((D + 1, ""), (D, "another collection"), (256, "")):
        gallery = open_gallery(sealed, dimension, origin=origin)
        assert gallery.damage is not None
        assert len(gallery) == 0


def test_left_overs_of_a_crash_are_ignored_and_swept(sealed: Path) -> None:
    for name in ("x.segment.new", "y.segment", "z.segment.1.alive", "manifest.json.new"):
        (sealed / name).write_bytes(b"half")
    gallery = opened(sealed)
    assert gallery.damage is None
    follow(gallery, 43)
    assert gallery.seal()
    assert not {"x.segment.new", "y.segment", "z.segment.1.alive"} & {
        path.name for path in sealed.iterdir()
    }
    assert_content(opened(sealed), 43)


def _follower(directory: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.gallery_history", str(directory)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )


@pytest.fixture
def followers(tmp_path: Path) -> Iterator[list["subprocess.Popen[str]"]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_a_process_killed_at_any_moment_leaves_a_complete_gallery(
    tmp_path: Path, followers: list["subprocess.Popen[str]"]
) -> None:
    """Two followers seal as often as they can; again and again one of them is killed."""
    rng = random.Random(0)
    reached = killed = 0
    followers += [_follower(tmp_path), _follower(tmp_path)]
    while not reached or killed < int(os.environ.get("MUSTER_TEST_KILLS", "8")):
        killed += 1
        victim = followers.pop(0)
        assert victim.stdout is not None
        assert victim.stdout.readline() == "following\n"
        time.sleep(rng.uniform(0, 0.15))
        victim.kill()
        victim.wait()
        victim.stdout.close()
        followers.append(_follower(tmp_path))
        gallery = opened(tmp_path)
        assert gallery.damage is None
        gallery.verify()
        assert gallery.damage is None
        assert_content(gallery, gallery.watermark)
        assert gallery.watermark >= reached
        reached = gallery.watermark


_ON_A_FULL_DISK = """
import sys
from pathlib import Path
import numpy as np
from shared.gallery import open_gallery
from tests.support.disks import SmallDisk
from tests.shared.gallery.conftest import random_rows
folder = Path(sys.argv[1])
gallery = open_gallery(folder / "gallery", 512, threads=1)
rows, ids = random_rows(600, 512), np.arange(1, 601, dtype=np.uint64)
gallery.apply(0, 1, ids=ids[:500], vectors=rows[:500])
gallery.seal()
ballast = SmallDisk(folder).fill()
gallery.apply(1, 2, ids=ids[500:], vectors=rows[500:])
try:
    gallery.seal()
    sys.exit("it was sealed on a full disk")
except OSError:
    pass
assert not list(folder.rglob("*.new"))
batches = [(ids, rows)]
assert gallery.rebuild(batches, 3) and gallery.damage is None and gallery.watermark == 3
assert [candidates.ids[0] for candidates in gallery.search(rows, 1)] == ids.tolist()
ballast.unlink()
assert gallery.seal()
again = open_gallery(folder / "gallery", 512, threads=1)
assert again.watermark == 3 and len(again) == 600
assert [candidates.ids[0] for candidates in again.search(rows, 1)] == ids.tolist()
"""


def test_a_full_disk_ends_no_process_and_what_it_could_not_take_stays_in_memory(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk", kilobytes=2048) as disk:
        command = [sys.executable, "-c", _ON_A_FULL_DISK, str(disk.folder)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
