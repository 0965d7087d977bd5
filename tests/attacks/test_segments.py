"""A forged segment or manifest is refused with any numbers, and never crashes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shared.gallery.kernels import compiled_kernels
from shared.wire.change_feed import FeedTemplates
from tests.attacks.segments import COUNT, sound_gallery, tried, with_header, with_manifest

_CRASHES = """
import sys
from pathlib import Path
from tests.attacks.segments import tried, with_header
folder = Path(sys.argv[1])
with_header(folder, count=int(sys.argv[2]))
sys.exit(tried(folder))
"""


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    sound_gallery(tmp_path / "gallery")
    assert len(list((tmp_path / "gallery").glob("*.alive"))) == 1
    return tmp_path / "gallery"


@pytest.mark.parametrize("count", [COUNT + 16, 10**6, 2**61, 2**61 + 5, 2**62, -1, 0])
def test_a_segment_that_claims_more_than_it_holds_is_refused(gallery: Path, count: int) -> None:
    command = [sys.executable, "-c", _CRASHES, str(gallery), str(count)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("groups", [0, 6, 8, 2**27, 2**58, -7])
def test_a_segment_of_other_groups_is_refused(gallery: Path, groups: int) -> None:
    with_header(gallery, groups=groups)
    assert not tried(gallery)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("live", COUNT), ("live", 2**70), ("live", -1),
        ("name", "../gallery/manifest.json"), ("alive", "../../secret"), ("alive", None),
    ],
)  # fmt: skip
def test_a_manifest_that_contradicts_its_files_is_refused(
    gallery: Path, name: str, value: object
) -> None:
    with_manifest(gallery, lambda manifest: manifest["segments"][0].update({name: value}))
    assert not tried(gallery)


@pytest.mark.parametrize("seq", [-1, 2**62, 2**80])
def test_a_manifest_of_an_impossible_change_is_refused(gallery: Path, seq: int) -> None:
    with_manifest(gallery, lambda manifest: manifest.update(seq=seq))
    assert not tried(gallery)


@pytest.mark.skipif(not compiled_kernels(), reason="the compiled kernel was not built")
@pytest.mark.parametrize("count", [-1, 9, 2**61, 2**61 + 1, 2**62, 2**63 - 1])
def test_the_kernel_takes_no_count_that_its_buffers_do_not_hold(count: int) -> None:
    from shared.gallery import _kernel

    ids, bits = np.arange(8, dtype=np.uint64), np.zeros(1, dtype=np.uint16)
    places = np.zeros(8, dtype=np.int64)
    for arguments in ((ids, None, count, ids, 8, bits), (ids, None, 8, ids, count, bits)):
        with pytest.raises(ValueError, match="buffer"):
            _kernel.choose(*arguments)
    with pytest.raises(ValueError, match="buffer"):
        _kernel.find(ids, None, count, bits, ids, 8, places)
    with pytest.raises(ValueError, match="buffer"):
        _kernel.find(ids, None, 8, bits, ids, count, places)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 60_000, 1.5])
def test_a_feed_whose_templates_are_none_is_refused_as_a_whole(value: float) -> None:
    rows = np.zeros((3, 32), dtype="<f2")
    rows[:, 0] = 1
    sound = FeedTemplates.pack([(n + 1, 1, row.tobytes()) for n, row in enumerate(rows)])
    assert sound.rows(32).shape == (3, 32)
    rows[1, 5] = value
    forged = FeedTemplates.pack([(n + 1, 1, row.tobytes()) for n, row in enumerate(rows)])
    with pytest.raises(ValueError, match="finite rows"):
        forged.rows(32)
