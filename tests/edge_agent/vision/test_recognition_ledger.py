"""The ledger: its counts are durable, bounded and have reasons in plain words."""

import signal
import subprocess
import sys
import threading
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from edge_agent.vision.recognition_ledger import Ledger, in_plain_terms, plainly
from models.quality.factors import FACTORS
from shared.errors import Unavailable

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def test_each_track_is_counted_once_under_its_camera_day_and_reason(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    for reason in (None, "sharpness", "yaw", "sharpness"):
        ledger.enter("door", NOON, reason)
    ledger.enter("gate", NOON, None)
    ledger.enter("door", NOON + timedelta(days=1), "interocular")
    days = ledger.days()
    assert [(one.camera, one.day.day, one.tracks, one.with_probe) for one in days] == [
        ("door", 23, 1, 0),
        ("door", 22, 4, 1),
        ("gate", 22, 1, 1),
    ]
    assert days[1].reasons == {"sharpness": 2, "yaw": 1}
    assert [one.day.day for one in ledger.days(since=date(2026, 11, 23))] == [23]
    ledger.close()


def test_the_day_is_the_day_in_utc_wherever_the_clock_was_set(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.enter("door", datetime.fromisoformat("2026-11-23T01:30:00+05:00"), None)
    assert ledger.days()[0].day == date(2026, 11, 22)
    ledger.close()


def test_what_was_entered_survives_kill_9(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from datetime import datetime, UTC\n"
        "from edge_agent.vision.recognition_ledger import Ledger\n"
        "ledger = Ledger(Path(sys.argv[1]))\n"
        "for n in range(10**9):\n"
        "    ledger.enter('door', datetime(2026, 11, 22, tzinfo=UTC), 'yaw' if n % 2 else None)\n"
        "    print(n, flush=True)\n"
    )
    path = tmp_path / "ledger.db"
    writer = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    line = 0
    for line in writer.stdout:
        line = int(line)
        if line >= 40:
            break
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    ledger = Ledger(path)
    (day,) = ledger.days()
    assert day.tracks >= line + 1
    assert day.with_probe + sum(day.reasons.values()) == day.tracks
    ledger.close()


def test_old_days_are_deleted_and_a_clock_wrong_by_a_year_costs_one_day(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db", kept_days=5)
    for offset in range(5):
        ledger.enter("door", NOON + timedelta(days=offset), None)
    ledger.enter("door", NOON + timedelta(days=365), None)
    ledger.enter("door", NOON + timedelta(days=4), None)
    days = ledger.days()
    assert len(days) == 5
    assert days[0].day.year == 2027
    assert [one.day.day for one in days[1:]] == [26, 25, 24, 23]
    assert days[1].tracks == 2
    ledger.close()


def test_several_cameras_may_enter_at_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")

    def enter(camera: str) -> None:
        for _ in range(50):
            ledger.enter(camera, NOON, "yaw")

    threads = [threading.Thread(target=enter, args=(f"camera-{n % 2}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.tracks for one in ledger.days()] == [100, 100]
    ledger.close()


def test_another_process_that_reads_loses_no_entry(tmp_path: Path) -> None:
    ledger, reader = Ledger(tmp_path / "ledger.db"), Ledger(tmp_path / "ledger.db")
    ledger.enter("door", NOON, None)
    assert reader.days()[0].tracks == 1
    ledger.enter("door", NOON, None)
    assert reader.days()[0].tracks == 2
    for one in (ledger, reader):
        one.close()


def test_no_count_is_lost_while_the_disk_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger(path)
    ledger.enter("door", NOON, None)
    ledger._connection.execute("PRAGMA query_only = ON")  # like a disk that was remounted read-only
    ledger.enter("door", NOON, "yaw")
    assert ledger.days()[0].tracks == 2
    ledger._connection.execute("PRAGMA query_only = OFF")
    ledger.enter("door", NOON, "yaw")
    ledger.close()
    again = Ledger(path)
    assert again.days()[0].tracks == 3
    again.close()


def test_a_damaged_file_is_put_aside_and_counting_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"this is no database at all" * 100)
    ledger = Ledger(path)
    ledger.enter("door", NOON, None)
    assert ledger.days()[0].tracks == 1
    ledger.close()
    assert (tmp_path / "ledger.db.damaged").exists()


def test_the_error_names_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match=r"file/ledger\.db cannot be opened"):
        Ledger(tmp_path / "file" / "ledger.db")


@pytest.mark.parametrize(
    ("factor", "plain"),
    [
        ("interocular", "too small"),
        ("brightness", "too dark or too bright"),
        ("yaw", "turned away"),
        ("sharpness", "blurred"),
        ("occlusion_total", "covered"),
        ("covered", "covered (searched all the same)"),
        ("liveness", "not live"),
    ],
)
def test_every_reason_has_plain_words(factor: str, plain: str) -> None:
    assert in_plain_terms(factor) == plain


def test_every_factor_has_a_plain_reason_and_equal_ones_are_added_up(tmp_path: Path) -> None:
    assert all("_" not in in_plain_terms(factor) for factor in FACTORS)
    ledger = Ledger(tmp_path / "ledger.db")
    for factor in ("sharpness", "yaw", "pitch"):
        ledger.enter("door", NOON, factor)
    (refusals,) = plainly(ledger.days())
    assert refusals.reasons == {"turned away": 2, "blurred": 1}
    ledger.close()
