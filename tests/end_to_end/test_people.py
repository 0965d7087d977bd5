"""Eight people with five pictures each: enrolled from one, recognised in the others."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import pytest
import requests

from demo.cast import LaneName, Walk
from demo.film import Figure, compose, cut_out, lane_of
from models.face_models import open_models
from models.images.decoding import read_picture
from tests.end_to_end.conftest import RunningServer
from tests.support.launcher import EDGE_AGENT, run
from tests.support.serving import key as create_key

pytestmark = pytest.mark.models

COLLECTION = "/v1/collections/default"


def enroll(server: RunningServer, session: requests.Session, name: str, picture: Path) -> None:
    created = session.post(f"{server.url}{COLLECTION}/persons", json={"name": name})
    created.raise_for_status()
    answer = session.post(
        f"{server.url}{COLLECTION}/persons/{created.json()['id']}/images",
        files={"image": picture.read_bytes()},
    )
    assert answer.status_code == 201, answer.text


def search(
    server: RunningServer, session: requests.Session, picture: Path, *, detect_all: bool = False
) -> list[dict[str, Any]]:
    answer = session.post(
        f"{server.url}{COLLECTION}/search",
        files={"image": picture.read_bytes()},
        data={"detect_all": "true"} if detect_all else {},
    )
    assert answer.status_code == 200, answer.text
    probes: list[dict[str, Any]] = answer.json()["probes"]
    return probes


def names_of(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.name != "groups")


def test_one_picture_is_enough_to_know_somebody_in_the_others(
    running_server: RunningServer, people: Path
) -> None:
    enroller, searcher = running_server.session("enroller"), running_server.session("searcher")
    for name in names_of(people):
        enroll(running_server, enroller, name, people / name / f"{name}1.png")
    outcomes: Counter[str] = Counter()
    for name in names_of(people):
        for number in range(2, 6):
            (probe,) = search(running_server, searcher, people / name / f"{name}{number}.png")
            if probe["decision"] != "identified":
                outcomes["missed"] += 1
            elif probe["person"]["name"] == name:
                outcomes["right"] += 1
            else:
                outcomes["wrong"] += 1
    assert outcomes["wrong"] == 0
    assert outcomes["right"] >= 30  # of 32; one poor picture lies just below the threshold


def test_in_a_group_picture_nobody_is_found_twice(
    running_server: RunningServer, people: Path
) -> None:
    enroller, searcher = running_server.session("enroller"), running_server.session("searcher")
    for name in names_of(people):
        enroll(running_server, enroller, name, people / name / f"{name}1.png")
    faces = identified = 0
    for picture in sorted((people / "groups").iterdir()):
        probes = search(running_server, searcher, picture, detect_all=True)
        names = [probe["person"]["name"] for probe in probes if probe["decision"] == "identified"]
        assert len(set(names)) == len(names), f"somebody is in {picture.name} twice: {names}"
        faces, identified = faces + len(probes), identified + len(names)
    assert faces >= 20
    assert identified / faces >= 0.9


def test_a_camera_knows_people_from_pictures_of_other_days(
    running_server: RunningServer, people: Path, tmp_path: Path
) -> None:
    lanes: dict[LaneName, str] = {"far left": "amy", "left": "howard", "right": "raj"}
    stranger: LaneName = "far right"
    enroller = running_server.session("enroller")
    for name in lanes.values():
        enroll(running_server, enroller, name, people / name / f"{name}1.png")
    cast = lanes | {stranger: "stuart"}
    walks = [  # further apart than a track waits for somebody who is hidden
        Walk(name, f"{name}{number}.png", lane, start, start + 3, (70, 100), light)
        for number, start, light in ((2, 0.2, 0.9), (3, 6.4, 1.1))
        for lane, name in cast.items()
    ]
    models = open_models()

    def figure(walk: Walk) -> Figure:
        picture = read_picture((people / walk.name / walk.picture).read_bytes())
        picture = cv2.copyMakeBorder(picture, 0, 90, 40, 40, cv2.BORDER_REPLICATE)  # type: ignore[assignment]
        return cut_out(picture, models.detect(picture).boxes[0])

    film = tmp_path / "film.mp4"
    compose(film, walks, figure, seconds=10)
    key_file = tmp_path / "key"
    key_file.write_text(create_key(running_server.data, "device", "box-1"))
    command = [EDGE_AGENT, "once", str(film), "--server", running_server.url]
    command += [
        "--device",
        "box-1",
        "--key-file",
        str(key_file),
        "--state-dir",
        str(tmp_path / "agent"),
        "--json",
    ]
    done = run(command, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["frames"] == 250
    seen: Counter[tuple[str, str]] = Counter()
    viewer = running_server.session("viewer")
    for event in viewer.get(f"{running_server.url}/v1/events?size=100").json()["items"]:
        truth = cast[lane_of((event["box"][0] + event["box"][2]) / 2)]
        decided = event["person"]["name"] if event["decision"] == "identified" else "unknown"
        seen[truth, decided] += event["tracks"]  # a return within 30 s is one sighting
    wrong = {pair for pair in seen if pair[1] not in (pair[0], "unknown")}
    assert wrong == set()
    assert seen[cast[stranger], "unknown"] >= 2
    assert all(seen[name, name] >= 1 for name in lanes.values()), seen
