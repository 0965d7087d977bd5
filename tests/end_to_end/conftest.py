"""A real server for the tests of the whole road, and the folder of people where there is one."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from demo.processes import create_key, free_port, server


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A match server on loopback with a fresh database."""

    url: str
    data: Path

    def session(self, role: str) -> requests.Session:
        """Requests with a new key of that role."""
        session = requests.Session()
        session.headers["Authorization"] = f"Bearer {create_key(self.data, role)}"
        return session


@pytest.fixture
def running_server(tmp_path: Path) -> Iterator[RunningServer]:
    data = tmp_path / "data"
    with server(tmp_path, data, free_port()) as url:
        yield RunningServer(url, data)


@pytest.fixture(scope="session")
def people() -> Path:
    """A folder a person, five pictures each, and `groups` with several of them at a time."""
    folder = os.environ.get("MUSTER_TEST_FACES")
    if folder is None:
        pytest.skip("MUSTER_TEST_FACES names no folder of people")
    return Path(folder)
