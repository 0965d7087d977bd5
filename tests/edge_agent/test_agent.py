"""The whole agent: the command, real films, real models, a server over a socket."""

import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from demo.processes import free_port
from edge_agent.config.loading import load_settings
from edge_agent.outbox.outbox import Outbox
from shared.wire.messages import ProbeMessage
from tests.support.fake_servers import KEY, SITE, Broker, FakeHttpServer, FakeIngest
from tests.support.films import Actor, shrunk, write_film
from tests.support.launcher import EDGE_AGENT, Launched, run


@pytest.fixture
def server() -> Iterator[FakeHttpServer]:
    end = FakeHttpServer(free_port())
    end.start()
    yield end
    end.stop()


@pytest.fixture(scope="module")
def lobby(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of three people who move for four seconds, in 1280 × 720."""
    from models.samples import sample_path

    def actor(name: str, x: float, speed: float) -> Actor:
        picture = cv2.imread(str(sample_path(name)))
        if picture is None:
            raise RuntimeError(f"{name} cannot be read")
        return Actor(
            shrunk(picture.astype(np.uint8)), lambda time_s: (x + speed * time_s, 360.0, 340.0)
        )

    people = [
        actor("obama2.jpg", 250, 50),
        actor("biden.jpg", 660, -20),
        actor("astronaut.png", 1080, 10),
    ]
    return write_film(tmp_path_factory.mktemp("lobby") / "lobby.mp4", people, 4.0)


def once(
    source: Path | str, *options: str, state: Path, key: str | None = KEY
) -> tuple[int, dict[str, object], str]:
    environment = {**os.environ, "XDG_STATE_HOME": str(state)}
    environment.pop("MUSTER_SERVER_KEY", None)
    if key is not None:
        environment["MUSTER_SERVER_KEY"] = key
    done = run(
        [EDGE_AGENT, "once", str(source), "--device", "box-1", "--json", *options],
        env=environment,
        check=False,
    )
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def cosine(first: ProbeMessage, second: ProbeMessage) -> float:
    from shared.wire.template import decode_template

    one, other = (decode_template(probe.template, probe.model_id) for probe in (first, second))
    return float(one.vector @ other.vector)


@pytest.mark.models
def test_the_man_in_the_car_is_one_track_and_a_probe_or_two(
    server: FakeHttpServer, tmp_path: Path
) -> None:
    from models.samples import sample_path

    video = sample_path("carphone_pristine.mp4")
    status, report, log = once(video, "--server", server.url, state=tmp_path)
    assert status == 0, log
    assert report["frames"] == 120
    assert report["tracks"] == 1
    assert report["probes"]["acknowledged"] == len(server.ledger.probes)  # type: ignore[index]
    assert 1 <= len(server.ledger.probes) <= 4
    assert report["embeddings"] == len(server.ledger.probes)
    assert len({probe.track_id for probe in server.ledger.probes}) == 1
    assert all(cosine(server.ledger.probes[0], probe) > 0.35 for probe in server.ledger.probes)
    assert {"detect", "locate", "embed", "frame"} <= set(report["stage_ms"])  # type: ignore[call-overload]
    for probe in server.ledger.probes:
        assert probe.thumbnail_jpeg is not None
        picture = cv2.imdecode(np.frombuffer(probe.thumbnail_jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        assert max(picture.shape[:2]) <= 192


@pytest.mark.models
def test_three_people_in_one_film_are_three_tracks_that_are_never_mixed_up(
    server: FakeHttpServer, lobby: Path, tmp_path: Path
) -> None:
    from models.face_models import open_models
    from models.samples import sample_path

    status, report, log = once(lobby, "--server", server.url, state=tmp_path)
    assert status == 0, log
    assert report["tracks"] == 3
    tracks: dict[str, list[ProbeMessage]] = {}
    for probe in server.ledger.probes:
        tracks.setdefault(probe.track_id, []).append(probe)
    assert len(tracks) == 3
    models = open_models()
    others = ("obama.jpg", "biden.jpg", "astronaut.png")
    people = []
    for name in others:
        picture = cv2.imread(str(sample_path(name)))
        if picture is None:
            raise RuntimeError(f"{name} cannot be read")
        template = models.analyze(picture.astype(np.uint8))[0].template
        if template is None:
            raise RuntimeError(f"{name} gives no template")
        people.append(template.vector)
    from shared.wire.template import decode_template

    recognised = set()
    for probes in tracks.values():
        who = set()
        for probe in probes:
            vector = decode_template(probe.template, probe.model_id).vector
            likeness = np.stack(people) @ vector
            assert likeness.max() > 0.35
            who.add(int(likeness.argmax()))
        assert len(who) == 1, "one track, one person"
        recognised |= who
    assert recognised == {0, 1, 2}


@pytest.mark.models
@pytest.mark.broker
def test_over_a_broker_everything_arrives_too(broker: Broker, lobby: Path, tmp_path: Path) -> None:
    end = FakeIngest(broker, "box-1")
    end.start()
    status, report, log = once(
        lobby, "--broker", broker.url, "--site", SITE, state=tmp_path, key=None
    )
    end.stop()
    assert status == 0, log
    assert end.ledger.sequences == list(range(1, len(end.ledger.probes) + 1))
    assert report["probes"]["acknowledged"] == len(end.ledger.probes) >= 3  # type: ignore[index]


@pytest.mark.models
def test_what_a_dead_server_did_not_get_is_delivered_by_the_next_run_once(
    lobby: Path, tmp_path: Path
) -> None:
    server = FakeHttpServer(free_port())
    status, report, log = once(lobby, "--server", server.url, "--timeout", "1", state=tmp_path)
    assert status == 1
    made = report["probes"]["made"]  # type: ignore[index]
    assert report["probes"]["waiting"] == made >= 3  # type: ignore[index]
    assert log.count("cannot be reached") == 1, log
    server.start()
    try:
        status, _, log = once(lobby, "--server", server.url, state=tmp_path)
    finally:
        server.stop()
    assert status == 0, log
    assert server.ledger.sequences == list(range(1, 2 * made + 1))
    assert len(server.ledger.offers) == len(set(server.ledger.offers))


@pytest.mark.models
def test_a_wrong_key_is_said_and_nothing_is_lost(
    server: FakeHttpServer, lobby: Path, tmp_path: Path
) -> None:
    status, report, log = once(
        lobby, "--server", server.url, "--timeout", "1", state=tmp_path, key="wrong"
    )
    assert status == 1
    assert "does not know this box's key" in log
    assert "wrong" not in log
    assert report["probes"]["waiting"] == report["probes"]["made"]  # type: ignore[index]


@pytest.mark.models
def test_a_folder_of_pictures_gives_a_probe_for_every_face(
    server: FakeHttpServer, tmp_path: Path
) -> None:
    from models.samples import sample_path

    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("obama.jpg", "biden.jpg"):
        (folder / name).write_bytes(sample_path(name).read_bytes())
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    status, report, log = once(folder, "--server", server.url, state=tmp_path)
    assert status == 0, log
    assert report["frames"] == 2
    assert len(server.ledger.probes) == 2
    assert len({probe.track_id for probe in server.ledger.probes}) == 2
    assert "broken.jpg" in log


@pytest.mark.models
def test_a_source_that_cannot_be_read_ends_with_its_name_and_status_1(tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("not a film")
    status, report, log = once(tmp_path / "notes.mp4", state=tmp_path)
    assert status == 1
    assert "notes.mp4 is no film" in log
    assert report["failed"]
    assert "Traceback" not in log


def write_config(folder: Path, cameras: dict[str, Path | str], rest: str = "") -> Path:
    text = f'device = "box-1"\nsite = "{SITE}"\nstate_dir = "{folder}"\n{rest}\n'
    for name, source in cameras.items():
        text += f'[[cameras]]\nname = "{name}"\nsource = "{source}"\nrealtime = true\n'
    (folder / "agent.toml").write_text(text)
    return folder / "agent.toml"


@pytest.mark.models
def test_a_sick_camera_does_not_stop_the_others(
    server: FakeHttpServer, lobby: Path, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text(KEY)
    config = write_config(
        tmp_path,
        {"gone": "/nowhere/film.mp4", "lobby": lobby},
        f'[server]\nurl = "{server.url}"\nkey_file = "{tmp_path}/key"\n',
    )
    done = run([EDGE_AGENT, "run", "--config", str(config)], check=False)
    assert done.returncode == 0, done.stderr
    assert "Camera gone: there is no /nowhere/film.mp4" in done.stderr
    assert {probe.camera for probe in server.ledger.probes} == {"lobby"}
    # At its own pace, a film loses frames on a busy machine, and a track may break.
    assert len({probe.track_id for probe in server.ledger.probes}) >= 3


@pytest.mark.models
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_stores_the_open_tracks_and_ends_cleanly(
    lobby: Path, tmp_path: Path, number: signal.Signals
) -> None:
    # The first probe would wait for ten seconds, the film lasts four: only the end stores it.
    rest = 'log_level = "DEBUG"\n[shots]\nfirst_wait_s = 10.0\n'
    config = write_config(tmp_path, {"lobby": lobby}, rest)
    process = Launched(
        [EDGE_AGENT, "run", "--config", str(config)], stderr=subprocess.PIPE, text=True
    )
    faces = (line for line in process.stderr or [] if "a face comes into view" in line)
    assert len(list(itertools.islice(faces, 3))) == 3
    process.send_signal(number)
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0, log
    assert "Traceback" not in log
    outbox = Outbox(tmp_path / "outbox-box-1.db", "box-1")
    assert outbox.counts().waiting >= 3
    outbox.close()


def test_an_unknown_key_in_the_configuration_is_one_line_and_status_1(tmp_path: Path) -> None:
    config = write_config(tmp_path, {"door": "0"}, "sight = 'x'\n")
    done = run([EDGE_AGENT, "run", "--config", str(config)], check=False)
    assert done.returncode == 1
    assert "unknown key 'sight'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["run", "--help"], ["once", "-h"], ["doctor", "-h"], ["ledger", "-h"],
     ["enroll-device", "-h"], ["example", "-h"]],
)  # fmt: skip
def test_help_is_there_with_an_example(arguments: list[str]) -> None:
    done = subprocess.run([EDGE_AGENT, *arguments], capture_output=True, text=True, check=True)
    assert arguments == ["--help"] or "Example: edge-agent" in done.stdout


def test_the_example_is_printed_as_it_ships(tmp_path: Path) -> None:
    done = subprocess.run([EDGE_AGENT, "example"], capture_output=True, text=True, check=True)
    (tmp_path / "agent.toml").write_text(done.stdout)
    assert load_settings(tmp_path / "agent.toml").device == "entrance-box"


def test_the_agent_brings_no_server_with_it() -> None:
    script = textwrap.dedent(
        """
        import importlib, pkgutil, sys
        import edge_agent
        for module in pkgutil.walk_packages(edge_agent.__path__, "edge_agent."):
            importlib.import_module(module.name)
        strangers = {"flask", "sqlalchemy", "match_server"} & set(sys.modules)
        sys.exit(f"imported: {strangers}" if strangers else 0)
        """
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_watching_agent_does_not_carry_what_it_does_not_use() -> None:
    script = textwrap.dedent(
        """
        import sys
        import edge_agent.factory
        unused = {"requests", "paho", "PIL", "rich", "onnx"} & set(sys.modules)
        sys.exit(f"imported: {unused}" if unused else 0)
        """
    )
    subprocess.run([sys.executable, "-c", script], check=True)
