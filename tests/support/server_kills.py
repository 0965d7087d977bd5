"""Kills a server or database during many enrollments, and compares responses with the data.

For a test with a few rounds, and for `./dev bench faults` with many.
"""

import base64
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import psutil
import requests
from sqlalchemy import func, select

from match_server.db.database import Database
from match_server.db.tables import Change, Collection, Counter, Template
from match_server.services.audit.chain import append_notes
from tests.support.launcher import MATCH_SERVER, Launched, run
from tests.support.postgres import Postgres
from tests.support.waiting import wait_until

MODEL = "compact-mobilefacenet-512@1"
_COLLECTION = "/v1/collections/default"
_SAME = 0.99  # similarity of a stored template with the vector that it was made of
_START_S = 60
_AGAIN_S = 0.02
_ANSWER_S = 300  # the last of a thousand waits for all others

Victim = Literal["server", "database"]


@dataclass
class Promises:
    """The response to each enrollment, by its number."""

    stored: dict[int, str] = field(default_factory=dict)  # template ids
    refused: set[int] = field(default_factory=set)
    unknown: set[int] = field(default_factory=set)
    """Without a response, or with an unknown result: stored or not, both are correct."""


@dataclass(frozen=True, slots=True)
class Round:
    stored: int
    refused: int
    unknown: int
    of_these_there: int
    killed_after: int  # answers
    wrong: tuple[str, ...]


class Trial:
    """One server with one database, for any number of rounds."""

    def __init__(self, folder: Path, postgres: Postgres | None) -> None:
        self._folder = folder
        self._postgres = postgres
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._url = f"sqlite:///{folder / 'data' / 'muster.db'}"
        if postgres is not None:
            self._url = postgres.url(postgres.create())
            self._environment["MUSTER_DATABASE_URL"] = self._url
        self._process: subprocess.Popen[str] | None = None
        self._base = ""
        self._key = self._made_key()
        self.promises = Promises()
        self._next = 0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self._start()
        try:
            yield
        finally:
            self._kill_server()

    def round(self, victim: Victim, enrollments: int, clients: int, seed: int) -> Round:
        """Enroll, kill at a random moment, and compare the data with the responses."""
        numbers = range(self._next, self._next + enrollments)
        self._next += enrollments
        kill_after = random.Random(seed).randrange(enrollments // 20, enrollments * 3 // 4)
        own, answers = Promises(), [0]
        lock = threading.Lock()

        def enroll(number: int) -> None:
            self._enroll(number, own)
            with lock:
                answers[0] += 1

        with ThreadPoolExecutor(clients) as pool:
            for number in numbers:
                pool.submit(enroll, number)
            wait_until(
                lambda: answers[0] >= kill_after, "enough requests are answered", poll_s=0.001
            )
            self._kill(victim)
        self._settle()
        wrong, there = self._compare(numbers, own)
        return Round(
            stored=len(own.stored),
            refused=len(own.refused),
            unknown=len(own.unknown),
            of_these_there=there,
            killed_after=kill_after,
            wrong=tuple(wrong),
        )

    def counts_agree(self) -> list[str]:
        """Contradictions in the database."""
        database = Database(self._url, append_notes)
        with database.read() as session:
            templates = session.scalar(select(func.count()).select_from(Template))
            added = session.scalar(select(func.count()).where(Change.kind == "template_added"))
            counted = session.scalar(select(func.sum(Collection.template_count)))
            last = session.scalar(select(func.max(Change.seq)))
            counter = session.scalar(select(Counter.value).where(Counter.name == "changes"))
        database.close()
        wrong = []
        if not templates == added == counted:
            wrong.append(f"{templates} templates, {added} lines of the feed, {counted} counted")
        if last != counter:
            wrong.append(f"the feed ends at {last}, its counter is {counter}")
        return wrong

    def all_enrolled(self) -> list[str]:
        """Differences between data and responses of all rounds so far."""
        return self._compare(range(self._next), self.promises)[0]

    def _enroll(self, number: int, own: Promises) -> None:
        """Enroll one person with one template in one transaction; every tenth is invalid."""
        line = {"name": f"P{number}", "template": _text(number), "model_id": MODEL}
        if number % 10 == 9:
            line["model_id"] = "another@1"
        try:
            answer = requests.post(
                f"{self._base}{_COLLECTION}/enroll",
                data=json.dumps(line),
                headers={**self._headers, "Content-Type": "application/x-ndjson"},
                timeout=_ANSWER_S,
            )
            message = json.loads(answer.text.splitlines()[0])
        except (requests.RequestException, ValueError, IndexError):
            own.unknown.add(number)
            self.promises.unknown.add(number)
            return
        if message.get("status") == "accepted":
            own.stored[number] = self.promises.stored[number] = message["template_id"]
        elif message.get("details", {}).get("stored") == "unknown":
            own.unknown.add(number)
            self.promises.unknown.add(number)
        else:
            own.refused.add(number)
            self.promises.refused.add(number)

    def _compare(self, numbers: range, promises: Promises) -> tuple[list[str], int]:
        """The differences, and how many enrollments with an unknown result are stored."""
        wrong, of_unknown = [], 0
        some = list(numbers)
        for start in range(0, len(some), 100):
            part = some[start : start + 100]
            for number, best in zip(part, self._search(part), strict=True):
                there = best is not None
                if number in promises.stored and best != promises.stored[number]:
                    wrong.append(f"{number} was stored as {promises.stored[number]}, found {best}")
                if number in promises.refused and there:
                    wrong.append(f"{number} was refused, and is there as {best}")
                of_unknown += number in promises.unknown and there
        return wrong + self.counts_agree(), of_unknown

    def _search(self, numbers: list[int]) -> list[str | None]:
        """The template of each vector; None if there is none."""
        vectors = [{"vector": _text(number), "model_id": MODEL} for number in numbers]
        answer = requests.post(
            f"{self._base}{_COLLECTION}/search",
            json={"templates": vectors, "limit": 1},
            headers=self._headers,
            timeout=60,
        )
        if answer.status_code != 200:
            raise AssertionError(answer.text)
        best = [(probe["candidates"] or [None])[0] for probe in answer.json()["probes"]]
        return [
            one["template_id"] if one is not None and one["similarity"] > _SAME else None
            for one in best
        ]

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key}", "Connection": "close"}

    def _made_key(self) -> str:
        command = [MATCH_SERVER, "key", "create", "--role", "admin", "--json"]
        command += ["--data-dir", str(self._folder / "data")]
        made = run(command, env=self._environment)
        return str(json.loads(made.stdout)["key"])

    def _start(self) -> None:
        command = [MATCH_SERVER, "serve", "--port", "0", "--workers", "2"]
        command += ["--data-dir", str(self._folder / "data")]
        with (self._folder / "log").open("ab") as log:
            self._process = Launched(
                command, stdout=subprocess.PIPE, stderr=log, env=self._environment, text=True
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        address = re.search(r"http://[\d.:]+", line)
        if address is None:
            log_text = (self._folder / "log").read_text()[-2000:]
            raise AssertionError(f"the server did not start: {line!r} {log_text}")
        self._base = address[0]

    def _kill(self, victim: Victim) -> None:
        if victim == "server":
            self._kill_server()
            self._start()
        elif self._postgres is not None:
            self._postgres.kill()
            self._postgres.start_again()

    def _kill_server(self) -> None:
        if self._process is None:
            return
        family = [
            psutil.Process(self._process.pid),
            *psutil.Process(self._process.pid).children(recursive=True),
        ]
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGKILL)
        self._process.wait(20)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process = None

    def _settle(self) -> None:
        """Wait until the server responds to searches again."""
        deadline_s = time.monotonic() + _START_S
        while True:
            try:
                self._search([0])
                return
            except (AssertionError, requests.RequestException):
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(_AGAIN_S)


def _text(number: int) -> str:
    vector = np.random.default_rng(number).standard_normal(512)
    vector /= np.linalg.norm(vector)
    return base64.b64encode(vector.astype("<f2").tobytes()).decode()
