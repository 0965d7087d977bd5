"""Installing packs from files and from a web server, and everything that can go wrong."""

import errno
import hashlib
import io
import re
import shutil
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from models.face_models import open_models
from models.packs import install as installing
from models.packs.install import pull
from models.packs.manifest import Manifest, ModelFile, Pack, Source
from models.packs.store import InstalledPack, installed, require
from models.preprocessing import InputSpec
from shared.errors import PackError
from tests.support import graphs
from tests.support.fake_web import FarWeb


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def manifest(url: str, data: bytes, *, commercial_use: bool = True, **file: object) -> Manifest:
    """A manifest with one pack `mine` of one sample file."""
    entry = {"name": "thing.bin", "role": "sample", "source": "there", "sha256": sha256(data)}
    return Manifest(
        packs={
            "mine": Pack(
                title="Mine",
                description="A pack of the tests.",
                licence="CC0-1.0",
                commercial_use=commercial_use,
                homepage="https://example.org",
                sources={"there": Source(url=url, size=len(data))},
                files=(ModelFile.model_validate(entry | file),),
            )
        }
    )


def left_behind(cache: Path) -> list[str]:
    """What is in the cache besides locks."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def test_a_pack_from_the_web_is_installed_and_then_needs_no_network(
    far_web: FarWeb, tmp_path: Path
) -> None:
    far_web.files["/thing"] = b"content"
    packs = manifest(far_web.url("/thing"), b"content")
    there = pull("mine", packs, cache=tmp_path)
    assert (there.folder / "thing.bin").read_bytes() == b"content"
    assert pull("mine", packs, cache=tmp_path) == there
    assert len(far_web.requested) == 1
    assert left_behind(tmp_path) == ["mine"]


def test_other_words_about_a_pack_make_it_no_other_pack(far_web: FarWeb, tmp_path: Path) -> None:
    far_web.files["/thing"] = b"content"
    first = manifest(far_web.url("/thing"), b"content")
    pull("mine", first, cache=tmp_path)
    pack = first.packs["mine"]
    later = Manifest(packs={"mine": pack.model_copy(update={"description": "Other words."})})
    pull("mine", later, cache=tmp_path)
    assert len(far_web.requested) == 1
    fewer = pack.files[0].model_copy(update={"output": "other numbers"})
    other = Manifest(packs={"mine": pack.model_copy(update={"files": (fewer,)})})
    pull("mine", other, cache=tmp_path)
    assert len(far_web.requested) == 2


@pytest.mark.parametrize("name", ["thing.bin", "published"])
def test_a_file_in_the_folder_given_needs_no_network(
    name: str, far_web: FarWeb, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(b"content")
    packs = manifest(far_web.url("/v1/published"), b"content")
    there = pull("mine", packs, cache=tmp_path / "cache", folder=tmp_path)
    assert (there.folder / "thing.bin").read_bytes() == b"content"
    assert far_web.requested == []
    (tmp_path / name).write_bytes(b"another")
    with pytest.raises(PackError, match="wrong checksum"):
        pull("mine", packs, cache=tmp_path / "other", folder=tmp_path)


def test_a_pack_that_is_there_is_found_without_writing_anything(
    far_web: FarWeb, tmp_path: Path
) -> None:
    far_web.files["/thing"] = b"content"
    packs = manifest(far_web.url("/thing"), b"content")
    pull("mine", packs, cache=tmp_path)
    (tmp_path / ".mine.lock").unlink()
    pull("mine", packs, cache=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_cache_that_may_not_be_written_is_named_with_the_user(far_web: FarWeb) -> None:
    nowhere = Path("/sys/muster-models")  # the kernel lets nobody write there
    with pytest.raises(PackError, match=r"this user \(\w+\) may not write to /sys/muster-models"):
        pull("mine", manifest(far_web.url("/thing"), b"content"), cache=nowhere)


def test_only_the_wanted_file_of_an_archive_is_kept(far_web: FarWeb, tmp_path: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("inside/thing", b"content")
        opened.writestr("inside/other", b"unwanted")
    far_web.files["/archive.zip"] = archive.getvalue()
    packs = manifest(far_web.url("/archive.zip"), b"content", member="inside/thing")
    there = pull("mine", packs, cache=tmp_path)
    assert sorted(path.name for path in there.folder.iterdir()) == ["installed.json", "thing.bin"]


def test_a_member_that_is_missing_is_named(far_web: FarWeb, tmp_path: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("inside/other", b"unwanted")
    far_web.files["/archive.zip"] = archive.getvalue()
    packs = manifest(far_web.url("/archive.zip"), b"content", member="inside/thing")
    with pytest.raises(PackError, match="does not hold inside/thing"):
        pull("mine", packs, cache=tmp_path)


def test_a_wrong_checksum_says_which_file_and_what_was_expected(
    far_web: FarWeb, tmp_path: Path
) -> None:
    far_web.files["/thing"] = b"something else"
    packs = manifest(far_web.url("/thing"), b"content")
    with pytest.raises(PackError, match="wrong checksum") as caught:
        pull("mine", packs, cache=tmp_path)
    for part in ("thing.bin", sha256(b"content"), sha256(b"something else")):
        assert part in caught.value.message
    assert left_behind(tmp_path) == []
    far_web.files["/thing"] = b"content"
    pull("mine", packs, cache=tmp_path)  # and nothing of the wrong file stands in its way


def test_a_download_that_broke_off_is_continued_by_the_next_pull(
    far_web: FarWeb, tmp_path: Path
) -> None:
    content = bytes(range(256)) * 4096
    far_web.files["/thing"] = content
    packs = manifest(far_web.url("/thing"), content)
    mark = hashlib.sha256(far_web.url("/thing").encode()).hexdigest()[:8]
    tmp_path.joinpath(f".mine-there-{mark}.partial").write_bytes(content[:500_000])
    pull("mine", packs, cache=tmp_path)
    assert far_web.requested == [("/thing", "bytes=500000-")]
    assert left_behind(tmp_path) == ["mine"]


def test_a_full_disk_is_found_before_anything_is_fetched(
    far_web: FarWeb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far_web.files["/thing"] = b"content"
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(PackError, match="1 MiB free, installing needs"):
        pull("mine", manifest(far_web.url("/thing"), b"content"), cache=tmp_path)
    assert far_web.requested == []


def test_a_disk_that_fills_up_meanwhile_is_said_in_a_sentence(
    far_web: FarWeb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    far_web.files["/thing"] = b"content"
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(PackError, match="no space left in"):
        pull("mine", manifest(far_web.url("/thing"), b"content"), cache=tmp_path)
    assert left_behind(tmp_path) == []


def test_a_file_of_the_users_own_stays_where_it_is(tmp_path: Path) -> None:
    own = tmp_path / "my model.bin"
    own.write_bytes(b"content")
    with pytest.raises(PackError, match="wrong checksum"):
        pull("mine", manifest(f"file:{own}", b"other"), cache=tmp_path / "cache")
    pull("mine", manifest(f"file:{own}", b"content"), cache=tmp_path / "cache")
    assert own.read_bytes() == b"content"


def test_a_licence_that_forbids_commercial_use_wants_consent(tmp_path: Path) -> None:
    own = tmp_path / "thing"
    own.write_bytes(b"content")
    packs = manifest(f"file:{own}", b"content", commercial_use=False)
    with pytest.raises(PackError, match="--accept-licence"):
        pull("mine", packs, cache=tmp_path / "cache")
    pull("mine", packs, cache=tmp_path / "cache", accept_licence=True)


def test_a_changed_manifest_installs_again(tmp_path: Path) -> None:
    own = tmp_path / "thing"
    own.write_bytes(b"content")
    pull("mine", manifest(f"file:{own}", b"content"), cache=tmp_path / "cache")
    own.write_bytes(b"newer")
    there = pull("mine", manifest(f"file:{own}", b"newer"), cache=tmp_path / "cache")
    assert (there.folder / "thing.bin").read_bytes() == b"newer"


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (
            lambda there: there.write_bytes(b"tampered"),
            "has sha256 [0-9a-f]+, not [0-9a-f]+ as installed",
        ),
        (lambda there: there.unlink(), "is missing"),
    ],
)
def test_a_damaged_installation_is_found_and_repaired(
    tmp_path: Path, damage: Callable[[Path], None], complaint: str
) -> None:
    own = tmp_path / "thing"
    own.write_bytes(b"content")
    packs = manifest(f"file:{own}", b"content")
    there = pull("mine", packs, cache=tmp_path / "cache")
    assert there.problems() == []
    damage(there.folder / "thing.bin")
    (problem,) = there.problems()
    assert re.fullmatch(f"thing.bin {complaint}", problem)
    assert pull("mine", packs, cache=tmp_path / "cache").problems() == []


def test_a_damaged_receipt_asks_for_another_pull(tmp_path: Path) -> None:
    own = tmp_path / "thing"
    own.write_bytes(b"content")
    packs = manifest(f"file:{own}", b"content")
    there = pull("mine", packs, cache=tmp_path)
    (there.folder / "installed.json").write_text("{")
    with pytest.raises(PackError, match="pull mine again"):
        installed("mine", tmp_path)
    assert pull("mine", packs, cache=tmp_path).problems() == []


def test_two_pulls_at_once_fetch_once(far_web: FarWeb, tmp_path: Path) -> None:
    far_web.files["/thing"] = b"content"
    packs = manifest(far_web.url("/thing"), b"content")
    answers: list[InstalledPack] = []
    threads = [
        threading.Thread(target=lambda: answers.append(pull("mine", packs, cache=tmp_path)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 4
    assert len(far_web.requested) == 1


def test_what_a_killed_pull_left_behind_is_cleared_away(tmp_path: Path) -> None:
    own, cache = tmp_path / "thing", tmp_path / "cache"
    own.write_bytes(b"content")
    (cache / ".mine.work-killed").mkdir(parents=True)
    pull("mine", manifest(f"file:{own}", b"content"), cache=cache)
    assert left_behind(cache) == ["mine"]


def test_an_unknown_pack_is_answered_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="there are mine"):
        pull("yours", manifest("file:/nowhere", b"x"), cache=tmp_path)


def test_a_pack_that_is_not_installed_says_how_to_install_it(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="face-models pull compact"):
        open_models(cache=tmp_path)


def test_installing_makes_a_graph_fast_and_batchable(tmp_path: Path) -> None:
    weights = np.array([[1, 1e-39], [2, -1e-30], [3, 0.5]], np.float32)
    published = graphs.fixed_reshape(tmp_path / "published.onnx", weights)
    packs = manifest(
        f"file:{published}",
        published.read_bytes(),
        role="eyes",
        architecture="eyes24",
        input=InputSpec(colour="gray"),
        steps=("flush-denormals", "dynamic-batch"),
    )
    there = pull("mine", packs, cache=tmp_path / "cache")
    ready = there.folder / "thing.bin"
    (left,) = (
        numpy_helper.to_array(tensor)
        for tensor in onnx.load(ready).graph.initializer
        if tensor.name == "weights"
    )
    np.testing.assert_array_equal(left, np.array([[1, 0], [2, 0], [3, 0.5]], np.float32))
    batch = np.arange(12, dtype=np.float32).reshape(4, 3)
    (answer,) = graphs.Session(ready).run(batch)
    np.testing.assert_allclose(answer, batch @ left)


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    own = tmp_path / "thing"
    own.write_bytes(b"this is no graph")
    packs = manifest(f"file:{own}", own.read_bytes(), steps=("flush-denormals",))
    with pytest.raises(PackError, match="is not an ONNX graph"):
        pull("mine", packs, cache=tmp_path / "cache")
    assert require_nothing(tmp_path / "cache")


def require_nothing(cache: Path) -> bool:
    with pytest.raises(PackError, match="not installed"):
        require("mine", cache)
    return left_behind(cache) == []


def test_installing_needs_a_folder_that_can_be_written(tmp_path: Path) -> None:
    own = tmp_path / "thing"
    own.write_bytes(b"content")
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(PackError, match="installing mine into"):
        pull("mine", manifest(f"file:{own}", b"content"), cache=tmp_path / "cache")


def test_the_report_ends_where_the_total_is(far_web: FarWeb, tmp_path: Path) -> None:
    far_web.files["/thing"] = b"content"
    last: dict[str, tuple[int, int]] = {}
    pull(
        "mine",
        manifest(far_web.url("/thing"), b"content"),
        cache=tmp_path,
        report=lambda doing, done, total: last.update({doing: (done, total)}),
    )
    assert last
    assert all(done == total for done, total in last.values())
    assert installing.quiet("nothing", 0, 1) is None
