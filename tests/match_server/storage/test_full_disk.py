"""On a full or read-only disk searches work, and writes fail with a clear error.

The file systems and the server are real: a mapped file without a block on the disk ends a process
with SIGBUS, which a test in the same process could not see.
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from match_server.services.storage.backends import Folder
from shared.errors import StorageFull
from tests.support.disks import fragile_disk, small_disk
from tests.support.serving import MODEL, Client, key, started, stopped

_ROUNDS = 40


@pytest.fixture
def running(tmp_path):
    """Starts a server with a folder. Returns its process, a client, and a function for its log."""
    processes = []

    def start(data, log=tmp_path / "server.log", **environment):
        process, address = started(data, log, "--threads", "4", **environment)
        processes.append(process)
        return process, Client(address, key(data, "admin")), log

    yield start
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            stopped(process)


def _workers(process):
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return children.read_text("ascii").split()


def _refused(admin, code, path="/v1/collections/default/persons", **body):
    answer = admin("POST", path, json=body)
    assert answer.status_code == 503, answer.text
    assert answer.json()["code"] == code
    assert int(answer.headers["Retry-After"]) > 0
    return answer.json()["message"]


def _searches_go_on(admin, helpers, person):
    for number in range(_ROUNDS):
        (result,) = admin.search(helpers.encode(helpers.unit_vector(1)))["probes"]
        assert result["candidates"][0]["person"]["id"] == person
        # Each of these is a count that was not there before.
        assert admin("GET", f"/v1/collections/{number}").status_code == 404
        assert admin("GET", "/metrics").status_code == 200
    assert admin("GET", f"/v1/collections/default/persons/{person}").status_code == 200
    assert admin("GET", "/readyz").status_code == 200


@pytest.mark.parametrize("shared_memory", [True, False])
def test_searches_go_on_while_the_disk_is_full_and_writes_when_it_is_not_any_more(
    tmp_path, running, helpers, shared_memory
):
    with small_disk(tmp_path / "disk", kilobytes=16384) as disk:
        elsewhere = {}
        if not shared_memory:  # counts and the log on the disk that becomes full
            elsewhere = {
                "PROMETHEUS_MULTIPROC_DIR": str(disk.folder / "m"),
                "log": disk.folder / "server.log",
            }
        process, admin, log = running(disk.folder / "data", **elsewhere)
        vector = helpers.encode(helpers.unit_vector(1))
        person, _ = admin.person("Ann", vector)
        workers = _workers(process)
        ballast = disk.fill()
        assert "disk is full" in _refused(admin, "storage_full", name="Bob")
        templates = f"/v1/collections/default/persons/{person}/templates"
        _refused(admin, "storage_full", templates, template=vector, model_id=MODEL)
        _searches_go_on(admin, helpers, person)
        assert "disk is full" in _refused(admin, "storage_full", name="Bob")
        ballast.unlink()
        bob, _ = admin.person("Bob", helpers.encode(helpers.unit_vector(2)))
        (result,) = admin.search(helpers.encode(helpers.unit_vector(2)))["probes"]
        assert result["candidates"][0]["person"]["id"] == bob
        assert _workers(process) == workers
        assert stopped(process) == 0
        assert '"trace"' not in log.read_text("utf-8")


def test_a_photo_for_which_there_is_no_room_leaves_nothing_of_itself(tmp_path):
    with small_disk(tmp_path / "disk", kilobytes=2048) as disk:
        place = Folder(disk.folder)
        before = place.new_name("photos")
        place.write(before, b"a photo")
        ballast = disk.fill()
        name = place.new_name("photos")
        with pytest.raises(StorageFull, match="disk is full"):
            place.write(name, bytes(50_000))
        assert not (disk.folder / name).exists()
        assert place.read(before) == b"a photo"
        ballast.unlink()
        place.write(name, bytes(50_000))
        assert place.read(name) == bytes(50_000)


def test_a_disk_that_becomes_read_only_is_named_and_searches_go_on(tmp_path, running, helpers):
    with fragile_disk(tmp_path / "disk", megabytes=24) as disk:
        process, admin, log = running(disk.folder / "data")
        person, _ = admin.person("Ann", helpers.encode(helpers.unit_vector(1)))
        admin.search(helpers.encode(helpers.unit_vector(1)))
        workers = _workers(process)
        disk.fail()
        assert "read-only" in _refused(admin, "storage_read_only", name="Bob")
        _searches_go_on(admin, helpers, person)
        assert _workers(process) == workers
        stopped(process)
    assert '"trace"' not in log.read_text("utf-8")


def test_counts_in_shared_memory_go_with_the_server(tmp_path, running):
    mine = f"muster-metrics-{os.geteuid()}-*"
    before = set(Path("/dev/shm").glob(mine))
    process, admin, _ = running(tmp_path / "data")
    assert admin("GET", "/metrics").status_code == 200
    (folder,) = set(Path("/dev/shm").glob(mine)) - before
    assert folder.stat().st_mode & 0o077 == 0
    assert list(folder.glob("*.db"))
    assert not (tmp_path / "data" / "metrics").exists()
    assert stopped(process) == 0
    assert not folder.exists()


_COUNTING = """
import os, sys
from pathlib import Path
from match_server.services.metrics import Metrics
from match_server.services.metrics_sharing import share_metrics
from tests.support.disks import SmallDisk
folder = Path(sys.argv[1])
os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder / "metrics")
early = sys.argv[2] == "early"
if early:
    SmallDisk(folder).fill()
share_metrics(folder)
metrics = Metrics()
if not early:
    SmallDisk(folder).fill()
for number in range(500):  # more than the files have room for at first
    metrics.request(f"/rule/{number}", "GET", 200, 0.1)
metrics.exposition(lambda: iter(()))
"""


@pytest.mark.parametrize("when", ["early", "late"])
def test_counting_goes_on_where_the_disk_of_the_counts_is_full(tmp_path, when):
    with small_disk(tmp_path / "disk", kilobytes=1024) as disk:
        command = [sys.executable, "-c", _COUNTING, str(disk.folder), when]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "are not shared" in done.stderr
