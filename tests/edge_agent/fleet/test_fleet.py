"""The parts of fleet management, with clocks that the test sets."""

import dataclasses
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent.config.fleet import FleetSettings
from edge_agent.fleet.clock_offset import ClockOffset
from edge_agent.fleet.config_dry_run import problem_of
from edge_agent.fleet.hardware import MachineSensors
from edge_agent.fleet.load_shedding import Load, LoadShedder
from edge_agent.fleet.remote_config import Configurations, merged
from edge_agent.fleet.server_link import send_first
from edge_agent.vision.load_profile import LoadProfile
from shared.enrollment_code import Invitation, new_code, plain_code
from shared.errors import (
    ConfigurationError,
    Forbidden,
    MalformedInput,
    MusterError,
    Unauthenticated,
    Unavailable,
)
from shared.wire.device import DesiredConfig


class SetClock:
    """Both clocks, moved by the test; the wall clock may be set."""

    def __init__(self) -> None:
        self.wall = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
        self.at_s = 1000.0

    def now(self) -> datetime:
        return self.wall

    def monotonic_s(self) -> float:
        return self.at_s

    def pass_s(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.at_s += seconds


def files(root: Path, **texts: str) -> Path:
    for name, text in texts.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


class TestSensors:
    def test_a_machine_that_says_nothing_gives_nulls(self, tmp_path: Path) -> None:
        readings = MachineSensors(tmp_path, root=tmp_path).read()
        assert (readings.temperature_c, readings.throttled, readings.load_1m) == (None, None, None)
        assert readings.memory_free_bytes is None
        assert readings.disk_free_bytes

    def test_the_files_of_a_pi_are_read(self, tmp_path: Path) -> None:
        files(
            tmp_path,
            sys__class__thermal__thermal_zone0__temp="61328\n",
            sys__class__thermal__thermal_zone1__temp="-274000\n",  # a dead sensor
            proc__loadavg="2.51 1.20 0.90 3/212 4711\n",
            proc__meminfo="MemTotal: 4000000 kB\nMemAvailable:    1500 kB\n",
            proc__self__statm="9000 1000 500 1 0 900 0\n",
        )
        firmware = tmp_path / "sys/devices/platform/soc/soc:firmware/get_throttled"
        firmware.parent.mkdir(parents=True)
        for output, throttled in (("0\n", False), ("50000\n", False), ("50005\n", True)):
            firmware.write_text(output)  # bits 16 and 18: it happened, but not now
            read = MachineSensors(tmp_path, root=tmp_path).read()
            assert read.throttled is throttled
        assert read.temperature_c == pytest.approx(61.328)
        assert read.load_1m == 2.51
        assert read.memory_free_bytes == 1500 * 1024
        assert read.memory_bytes == 1000 * os.sysconf("SC_PAGE_SIZE")

    @pytest.mark.parametrize("soc", ["soc", "soc@107c000000"])
    def test_weak_power_is_seen_wherever_the_firmware_says_it(
        self, tmp_path: Path, soc: str
    ) -> None:
        firmware = tmp_path / f"sys/devices/platform/{soc}/{soc}:firmware/get_throttled"
        firmware.parent.mkdir(parents=True)
        firmware.write_text("1\n")
        assert MachineSensors(tmp_path, root=tmp_path).read().throttled is True

    @pytest.mark.parametrize(
        ("output", "throttled"),
        [("throttled=0x50005", True), ("throttled=0x50000", False), ("error=1", None)],
    )
    def test_vcgencmd_is_asked_where_the_kernel_says_nothing(
        self, tmp_path: Path, output: str, throttled: bool | None
    ) -> None:
        program = tmp_path / "vcgencmd"
        program.write_text(f"#!/bin/sh\necho {output}\n")
        program.chmod(0o755)
        sensors = MachineSensors(tmp_path, root=tmp_path, vcgencmd=str(program))
        assert sensors.read().throttled is throttled

    def test_vcgencmd_is_not_run_for_every_look_and_not_again_where_it_may_not(
        self, tmp_path: Path
    ) -> None:
        for status, runs in ((0, 1), (1, 1)):
            program, log = tmp_path / f"vcgencmd{status}", tmp_path / f"runs{status}"
            program.write_text(f"#!/bin/sh\necho x >> {log}\necho throttled=0x0\nexit {status}\n")
            program.chmod(0o755)
            sensors = MachineSensors(tmp_path, root=tmp_path, vcgencmd=str(program))
            readings = [sensors.read().throttled for _ in range(5)]
            assert readings == [False if status == 0 else None] * 5
            assert log.read_text().count("x") == runs

    def test_this_machine_says_what_its_kernel_says(self, tmp_path: Path) -> None:
        readings = MachineSensors(tmp_path).read()
        assert readings.load_1m is not None
        assert readings.memory_bytes > 1_000_000
        assert readings.processors >= 1


class TestClockOffset:
    def answer(
        self, clock: SetClock, offset: ClockOffset, out_s: float, back_s: float, ahead_s: float
    ) -> None:
        """A round trip to a server whose clock is `ahead_s` ahead of the box's."""
        mark = offset.mark()
        clock.pass_s(out_s)
        server_at = clock.wall + timedelta(seconds=ahead_s)
        clock.pass_s(back_s)
        offset.answered(mark, server_at)

    def test_it_is_wrong_by_half_of_the_shortest_round_trip_at_most(self) -> None:
        clock = SetClock()
        offset = ClockOffset(clock)
        assert offset.seconds is None
        for out_s, back_s in ((0.01, 2.0), (0.02, 0.03), (3.0, 0.01)):
            self.answer(clock, offset, out_s, back_s, ahead_s=7.5)
        assert offset.seconds == pytest.approx(7.5, abs=0.025)

    @pytest.mark.parametrize("jump", [timedelta(days=-1), timedelta(days=365)])
    def test_a_clock_that_was_set_is_measured_anew(self, jump: timedelta) -> None:
        clock = SetClock()
        offset = ClockOffset(clock)
        self.answer(clock, offset, 0.01, 0.01, ahead_s=0.0)
        clock.wall += jump
        assert offset.seconds is None
        self.answer(clock, offset, 0.5, 0.5, ahead_s=-jump.total_seconds())
        assert offset.seconds == pytest.approx(-jump.total_seconds(), abs=0.5)


NORMAL = Load(temperature_c=50.0, throttled=False, slowest_fps=15.0)
HOT = Load(temperature_c=85.0, throttled=False, slowest_fps=15.0)


class TestShedding:
    def shedder(self, clock: SetClock, **more: Any) -> LoadShedder:
        return LoadShedder(FleetSettings(), clock, **{"keep_liveness": False, **more})

    def apply(self, shedder: LoadShedder, clock: SetClock, load: Load, seconds: int) -> None:
        for _ in range(seconds):
            clock.pass_s(1.0)
            shedder.update(load)

    def test_it_goes_down_step_by_step_and_says_what_it_gave_up(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        clock = SetClock()
        shedder = self.shedder(clock)
        seen = []
        for _ in range(60):
            self.apply(shedder, clock, HOT, 1)
            if not seen or shedder.load_profile != seen[-1]:
                seen.append(shedder.load_profile)
        assert seen[0] == LoadProfile()
        assert seen[1].reductions == ["detect_every=2"]
        assert {"liveness", "occlusion"} <= set(seen[3].reductions)
        assert seen[-1].max_fps == 1.0
        assert len(seen) == 6
        assert sum("Reduced the load" in one.getMessage() for one in caplog.records) == 5

    def test_it_comes_back_when_all_is_calm_and_not_between_hot_and_cool(self) -> None:
        clock = SetClock()
        shedder = self.shedder(clock)
        self.apply(shedder, clock, HOT, 25)
        assert shedder.load_profile.detect_every == 4
        warm = Load(temperature_c=76.0, throttled=False, slowest_fps=15.0)
        self.apply(shedder, clock, warm, 600)
        assert shedder.load_profile.detect_every == 4
        self.apply(shedder, clock, NORMAL, 59)
        assert shedder.load_profile.detect_every == 4
        self.apply(shedder, clock, NORMAL, 120)
        assert shedder.load_profile == LoadProfile()

    def test_a_box_at_its_limit_swings_ever_slower(self) -> None:
        clock = SetClock()
        shedder = self.shedder(clock)
        moves = 0
        for _ in range(4 * 3600):
            before = shedder.load_profile
            self.apply(shedder, clock, HOT if before == LoadProfile() else NORMAL, 1)
            moves += shedder.load_profile != before
        assert moves < 40  # with constant pauses: 400

    @pytest.mark.parametrize(
        "load",
        [
            Load(temperature_c=None, throttled=True, slowest_fps=None),
            Load(temperature_c=40.0, throttled=False, slowest_fps=0.5),
        ],
    )
    def test_weak_power_and_cameras_that_are_too_much_count_as_well(self, load: Load) -> None:
        clock = SetClock()
        shedder = self.shedder(clock)
        self.apply(shedder, clock, load, 15)
        assert shedder.load_profile != LoadProfile()

    def test_one_look_that_is_bad_changes_nothing(self) -> None:
        clock = SetClock()
        shedder = self.shedder(clock)
        behind = Load(temperature_c=50.0, throttled=False, slowest_fps=0.5)
        for _ in range(20):
            self.apply(shedder, clock, NORMAL, 10)
            self.apply(shedder, clock, behind, 4)
        assert shedder.load_profile == LoadProfile()

    def test_who_heats_a_box_does_not_get_past_its_liveness_gate(self) -> None:
        clock = SetClock()
        shedder = self.shedder(clock, keep_liveness=True)
        self.apply(shedder, clock, HOT, 300)
        assert shedder.load_profile.max_fps == 1.0
        assert shedder.load_profile.liveness


FILE = """
device = "door"
state_dir = "{state}"
[[cameras]]
name = "front"
source = "rtsp://me:secret@10.0.0.9/live?password=secret"
[[cameras]]
name = "pipe"
source = "v4l2src ! videoconvert"
[server]
url = "http://127.0.0.1:1"
[shots]
margin = 0.2
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "agent.toml"
    path.write_text(FILE.format(state=tmp_path / "state"))
    return path


def desired(revision: int = 1, **config: Any) -> DesiredConfig:
    return DesiredConfig(revision=revision, config=config)


class TestConfigurations:
    def test_sections_are_laid_over_key_by_key_and_lists_as_a_whole(self, config: Path) -> None:
        configurations = Configurations(config, SetClock())
        one = {"name": "only", "source": "/dev/video0"}
        settings = configurations.settings_with(desired(shots={"gate": "off"}, cameras=[one]))
        assert (settings.shots.gate, settings.shots.margin) == ("off", 0.2)
        assert [camera.name for camera in settings.cameras] == ["only"]
        before = {"a": {"b": 1, "c": [1, 2]}, "d": 1}
        assert merged(before, {"a": {"c": [3]}}) == {"a": {"b": 1, "c": [3]}, "d": 1}
        assert before == {"a": {"b": 1, "c": [1, 2]}, "d": 1}

    @pytest.mark.parametrize(
        ("config_part", "reason"),
        [
            ({"device": "other"}, "'device' is set in the box's own file only"),
            ({"server": {"url": "http://evil"}}, "'server' is set in the box's own"),
            ({"broker": None}, "'broker'"),
            ({"fleet": {"remote": False}}, "'fleet'"),
            ({"gallery": {"hook": ["/bin/sh"]}}, "'gallery.hook'"),
            ({"cameras": [{"name": "x", "source": "videotestsrc ! filesink"}]}, "GStreamer"),
            (
                {
                    "cameras": [
                        {
                            "name": "x",
                            "source": "rtsp://evil/",
                            "username": "u",
                            "password_file": "/etc/shadow",
                        }
                    ]
                },
                "password_file",
            ),
            ({"shotts": {}}, "unknown key 'shotts'; did you mean 'shots'"),
            ({"shots": {"margin": "a lot"}}, "'shots.margin'"),
            ({"cameras": []}, "'cameras'"),
        ],
    )
    def test_what_nobody_may_set_from_afar_is_refused_by_name(
        self, config: Path, config_part: dict[str, Any], reason: str
    ) -> None:
        with pytest.raises(ConfigurationError) as caught:
            Configurations(config, SetClock()).settings_with(desired(**config_part))
        assert reason in caught.value.message

    def test_a_pipeline_of_the_own_file_may_be_named_again(self, config: Path) -> None:
        same = {"name": "renamed", "source": "v4l2src ! videoconvert"}
        settings = Configurations(config, SetClock()).settings_with(desired(cameras=[same]))
        assert settings.cameras[0].name == "renamed"

    def test_what_is_reported_opens_no_door(self, config: Path) -> None:
        configurations = Configurations(config, SetClock())
        report = configurations.report(configurations.begin()).model_dump_json()
        assert "secret" not in report
        assert "10.0.0.9/live" in report
        assert "127.0.0.1:1" not in report

    def test_a_trial_is_kept_or_undone_also_over_a_death(self, config: Path) -> None:
        configurations = Configurations(config, SetClock())
        configurations.try_out(desired(1, log_level="DEBUG"))
        assert Configurations(config, SetClock()).begin().log_level == "DEBUG"
        again = Configurations(config, SetClock())
        assert again.begin().log_level == "DEBUG"
        again.keep()
        assert again.stored.state == "applied"
        again.try_out(desired(2, log_level="ERROR"))
        for _ in range(2):  # killed, twice
            assert Configurations(config, SetClock()).begin().log_level == "ERROR"
        third = Configurations(config, SetClock())
        settings = third.begin()
        assert settings.log_level == "DEBUG"
        report = third.report(settings)
        assert (report.revision, report.tried, report.state) == (1, 2, "rolled_back")
        assert not third.is_news(desired(2, log_level="ERROR"))
        assert third.is_news(desired(3, log_level="ERROR"))

    def test_a_start_that_ended_as_it_was_told_to_does_not_count(self, config: Path) -> None:
        Configurations(config, SetClock()).try_out(desired(log_level="DEBUG"))
        for _ in range(5):
            configurations = Configurations(config, SetClock())
            assert configurations.begin().log_level == "DEBUG"
            configurations.stopped()

    def test_a_taken_one_that_no_longer_fits_the_file_gives_way(self, config: Path) -> None:
        configurations = Configurations(config, SetClock())
        pipe = {"name": "pipe", "source": "v4l2src ! videoconvert"}
        configurations.try_out(desired(cameras=[pipe]))
        configurations.keep()
        config.write_text(config.read_text().replace("videoconvert", "identity"))
        changed = Configurations(config, SetClock())
        assert len(changed.begin().cameras) == 2
        assert changed.stored.state == "rolled_back"

    @pytest.mark.parametrize("damage", [b"", b"{", b'{"taken": 3}'])
    def test_a_damaged_memory_leads_back_to_the_own_file(self, config: Path, damage: bytes) -> None:
        configurations = Configurations(config, SetClock())
        configurations.try_out(desired(log_level="DEBUG"))
        (config.parent / "state" / "configuration.json").write_bytes(damage)
        assert Configurations(config, SetClock()).begin().log_level == "INFO"

    def test_what_cannot_be_written_down_is_not_tried(
        self, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        configurations = Configurations(config, SetClock())

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(ConfigurationError, match="No space left"):
            configurations.try_out(desired(log_level="DEBUG"))
        assert not configurations.on_trial


class TestInvitations:
    def test_codes_are_read_as_people_write_them(self) -> None:
        code = new_code()
        assert len({new_code() for _ in range(100)}) == 100
        plain = plain_code(code)
        assert plain_code(f" {plain[:4].lower()}  {plain[4:]} ") == plain
        assert plain_code("oilO-0011") == "01100011"

    @pytest.mark.parametrize(
        "text",
        [
            "https://example.com",
            "muster:enroll?server=ftp://x&code=ABCD-1234",
            "muster:enroll?server=http://x",
            "muster:enroll?server=http://x&code=ABCD-1234&certificate=77",
        ],
    )
    def test_other_pictures_are_no_invitations(self, text: str) -> None:
        with pytest.raises(MalformedInput):
            Invitation.read(text)

    def test_an_invitation_survives_its_picture(self) -> None:
        one = Invitation("https://muster.example:8443", "ABCD1234", "0f" * 32)
        assert Invitation.read(one.text()) == one


@pytest.mark.models
class TestPacks:
    @pytest.fixture
    def cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A copy of the pack `compact` that a test may damage, and no network for another."""
        from models.packs.store import default_cache

        cache = tmp_path / "models"
        shutil.copytree(default_cache() / "compact", cache / "compact")
        monkeypatch.setenv("MUSTER_MODELS_DIR", str(cache))
        monkeypatch.setenv("PATH", str(tmp_path / "no programs"))
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        return cache

    def test_sound_models_prove_themselves(self) -> None:
        from edge_agent.config.settings import ModelSettings
        from edge_agent.fleet.model_packs import open_checked, verify

        assert "one person is alike by" in verify(open_checked(ModelSettings()))

    def test_models_that_take_everybody_for_one_are_refused(self) -> None:
        from edge_agent.config.settings import ModelSettings
        from edge_agent.fleet.model_packs import open_checked, verify
        from shared.errors import PackError
        from shared.wire.template import Template

        real = open_checked(ModelSettings())

        class Worse:
            """The real models, but with templates that are nearly the same for all faces."""

            chip_size = real.chip_size

            def embed(self, chips: NDArray[np.uint8]) -> object:
                return real.embed(chips)

            def analyze(self, image: NDArray[np.uint8]) -> object:
                faces = real.analyze(image)
                vector = faces[0].template.vector + 10 * np.eye(1, 512, dtype=np.float32)[0]
                alike = Template(real.model_id, vector / np.linalg.norm(vector))
                return [dataclasses.replace(faces[0], template=alike)]

        with pytest.raises(PackError, match="do not tell people apart"):
            verify(Worse())

    def test_a_flipped_bit_is_noticed_and_what_cannot_be_mended_is_said(
        self, cache: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        from edge_agent.config.settings import ModelSettings
        from edge_agent.fleet.model_packs import DamagedPack, open_checked

        embedder = cache / "compact" / "embedder.onnx"
        data = bytearray(embedder.read_bytes())
        data[len(data) // 2] ^= 1
        embedder.write_bytes(data)
        with pytest.raises(DamagedPack, match=r"embedder\.onnx has sha256 .* cannot be downloaded"):
            open_checked(ModelSettings())
        assert any("Downloading the damaged pack" in one.getMessage() for one in caplog.records)

    def test_a_damaged_receipt_is_damage_too(self, cache: Path) -> None:
        from edge_agent.config.settings import ModelSettings
        from edge_agent.fleet.model_packs import DamagedPack, open_checked

        (cache / "compact" / "installed.json").write_text("{")
        with pytest.raises(DamagedPack, match=r"installed\.json is .* cannot be downloaded"):
            open_checked(ModelSettings())

    def test_another_embedder_than_was_asked_for_is_not_loaded(self) -> None:
        from edge_agent.config.settings import ModelSettings
        from edge_agent.fleet.model_packs import open_checked
        from shared.errors import PackError

        right = "87aacdfe57510db2af90c0251df680e8eec88f122ee94712121d09bcaaaf3581"
        open_checked(ModelSettings(embedder_sha256=right))
        with pytest.raises(PackError, match="should have an embedder with SHA-256"):
            open_checked(ModelSettings(embedder_sha256="0" * 64))

    @pytest.mark.parametrize(
        ("models", "reason"),
        [
            ({"detector": "compact"}, None),
            ({"pack": "buffalo_s"}, "may not be used commercially"),
            ({"pack": "nonsense"}, "nonsense"),
            ({"embedder_sha256": "0" * 64}, "should have an embedder with SHA-256"),
        ],
    )
    def test_an_update_is_fetched_compared_and_proved_before_it_is_taken(
        self, config: Path, models: dict[str, str], reason: str | None
    ) -> None:
        configurations = Configurations(config, SetClock())
        current = configurations.begin()
        request = {
            "table": configurations.table_with(desired(models=models)),
            "cameras": [one.model_dump_json() for one in current.cameras],
            "models": current.models.model_dump_json(),
        }
        problem = problem_of(request)
        assert (problem is None) if reason is None else (problem is not None and reason in problem)


@pytest.mark.parametrize("error", [Unavailable("away"), Unauthenticated("no"), Forbidden("no")])
def test_a_link_that_turns_the_box_away_leads_to_the_next_one(error: MusterError) -> None:
    receivers = []

    def say(link: int) -> None:
        if link == 1:
            raise error
        receivers.append(link)

    assert send_first([1, 2], say)  # type: ignore[list-item, arg-type]
    assert receivers == [2]
    assert not send_first([1], say)  # type: ignore[list-item, arg-type]
