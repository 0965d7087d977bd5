"""After a crash, each acknowledged probe has its thumbnail, whole."""

import base64
import contextlib
import os
import signal
import threading
from datetime import UTC, datetime

import psutil
import pytest
import requests

from match_server.services.storage.new_files import NewFiles
from tests.support.disks import fragile_disk
from tests.support.serving import MODEL, Client, key, started
from tests.support.waiting import wait_until

_LIST = 16
_CLIENTS = 4
_ENOUGH = 12  # acknowledged lists before the crash


class _Senders:
    """Threads that send lists of probes of strangers, each with a thumbnail of its own."""

    def __init__(self, admin, helpers):
        self._admin, self._helpers = admin, helpers
        self.acknowledged = {}  # the thumbnail of each probe, by the event that shows it
        self.lists = 0
        self._threads = [
            threading.Thread(target=self._send, args=(number,)) for number in range(_CLIENTS)
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error):
        for thread in self._threads:
            thread.join()

    def _send(self, client):
        """Send lists until the server does not respond any more."""
        for number in range(10_000):
            probes = [self._probe(client, number * _LIST + place) for place in range(_LIST)]
            try:
                response = self._admin("POST", "/v1/probes", json=probes)
                if response.status_code != 200:  # the disk fails before the server is killed
                    return
                results = response.json()["probes"]
            except requests.RequestException:
                return
            for probe, result in zip(probes, results, strict=True):
                assert result["status"] == "accepted"
                self.acknowledged[result["event"]["id"]] = probe["thumbnail"]
            self.lists += 1

    def _probe(self, client, number):
        picture = b"\xff\xd8\xff" + os.urandom(5000 + number % 7)
        return self._helpers.probe_message(
            self._helpers.unit_vector(1_000_000 * client + number),
            datetime.now(UTC),
            device=f"door-{client}",
            sequence=number + 1,
            model_id=MODEL,
            thumbnail=base64.b64encode(picture).decode(),
        )


def _kill(process):
    family = [psutil.Process(process.pid)]
    family += family[0].children(recursive=True)
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.send_signal(signal.SIGKILL)
    psutil.wait_procs(family[1:], 20)
    process.wait(20)
    process.stdout.close()


def _crashed(data, log, helpers, crash):
    """Sends probes to a server, crashes it, and returns what it had acknowledged."""
    process, address = started(data, log, "--threads", "8")
    admin = Client(address, key(data, "admin"))
    with _Senders(admin, helpers) as senders:
        wait_until(lambda: senders.lists >= _ENOUGH, "enough lists are acknowledged", poll_s=0.001)
        crash()
        _kill(process)
    return senders.acknowledged


def _assert_whole(data, log, acknowledged):
    process, address = started(data, log)
    try:
        client = Client(address, key(data, "admin"))
        for event, thumbnail in acknowledged.items():
            response = client("GET", f"/v1/events/{event}/snapshot")
            assert response.status_code == 200, response.text
            assert response.content == base64.b64decode(thumbnail)
    finally:
        _kill(process)
    assert len(acknowledged) >= _ENOUGH * _LIST


def test_a_killed_server_has_the_thumbnail_of_each_acknowledged_probe(tmp_path, helpers):
    data, log = tmp_path / "data", tmp_path / "log"
    _assert_whole(data, log, _crashed(data, log, helpers, crash=lambda: None))


def test_a_power_cut_leaves_the_thumbnail_of_each_acknowledged_probe(tmp_path, helpers):
    with fragile_disk(tmp_path / "disk", megabytes=64) as disk:
        data, log = disk.folder / "data", tmp_path / "log"
        acknowledged = _crashed(data, log, helpers, crash=disk.cut_power)
        disk.mount_again()
        _assert_whole(data, log, acknowledged)


def test_a_power_cut_takes_files_that_were_not_synchronised(tmp_path):
    with fragile_disk(tmp_path / "disk", megabytes=8) as disk:
        names = [f"snapshots/ab/{number}" for number in range(32)]
        NewFiles().write({disk.folder / name: bytes([1]) * 5000 for name in names[:16]})
        for name in names[16:]:
            (disk.folder / name).write_bytes(bytes([1]) * 5000)
        disk.cut_power()
        disk.mount_again()
        paths = [disk.folder / name for name in names]
        whole = [path.exists() and path.stat().st_size == 5000 for path in paths]
        assert whole == [True] * 16 + [False] * 16


def test_a_list_of_files_that_cannot_be_written_leaves_none(tmp_path):
    folder = tmp_path / "ab"
    folder.mkdir()
    (folder / "2").write_bytes(b"another")
    with pytest.raises(FileExistsError):
        NewFiles().write({folder / name: b"new" for name in ("1", "2", "3")})
    assert [path.name for path in folder.iterdir()] == ["2"]
