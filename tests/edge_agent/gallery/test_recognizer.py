"""The box's decision on its way into the outbox, and who is told of it."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from edge_agent.gallery.local import Found
from edge_agent.gallery.recognizer import Hook, Recognizer
from edge_agent.outbox import Outbox
from edge_agent.probes import Probe
from edge_agent.settings import settings_of
from shared.errors import ConfigurationError
from shared.feed import FeedPerson
from shared.messages import LocalEventMessage, ProbeMessage
from shared.template import Template
from tests.edge_agent.made_probes import make_probe

AMY = FeedPerson(number=1, id="amy", name="Amy Farrah")


class Says:
    """A gallery with one answer."""

    def __init__(self, answer: Found | None) -> None:
        self.answer = answer
        self.asked = 0

    def decide(self, template: Template) -> Found | None:
        self.asked += 1
        return self.answer


KNOWN = Found("staff", "identified", AMY, 0.8, 7)
STRANGER = Found("visitors", "unknown", None, None, 9)


class Heard:
    """Who is told, and what the outbox held at that moment."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self.messages: list[LocalEventMessage] = []
        self.waiting: list[int] = []

    def __call__(self, message: LocalEventMessage) -> None:
        self.messages.append(message)
        self.waiting.append(self.outbox.counts().waiting)


def sent(outbox: Outbox) -> list[ProbeMessage]:
    return [ProbeMessage.model_validate_json(one.body) for one in outbox.pending()]


def recognizer(
    outbox: Outbox, *galleries: Says, wanted: bool = True, tell: Sequence[Heard] = ()
) -> Recognizer:
    return Recognizer(outbox, galleries, "box-1", lambda: wanted, tell)


def test_a_probe_carries_the_strongest_decision(outbox: Outbox) -> None:
    assert recognizer(outbox, Says(STRANGER), Says(KNOWN)).put([make_probe()]) == 1
    (message,) = sent(outbox)
    assert message.local is not None
    assert message.local.model_dump() == {
        "collection": "staff",
        "decision": "identified",
        "person": "amy",
        "similarity": 0.8,
        "seq": 7,
    }


def test_nothing_is_asked_while_the_server_decides(outbox: Outbox) -> None:
    heard, says = Heard(outbox), Says(KNOWN)
    recognizer(outbox, says, wanted=False, tell=[heard]).put([make_probe()])
    assert (says.asked, heard.messages) == (0, [])
    assert sent(outbox)[0].local is None


def test_a_gallery_that_cannot_decide_takes_nothing_from_the_probe(outbox: Outbox) -> None:
    heard = Heard(outbox)
    recognizer(outbox, Says(None), tell=[heard]).put([make_probe()])
    assert sent(outbox)[0].local is None
    assert heard.messages == []


def test_the_probe_is_on_the_disk_before_anybody_is_told(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    heard = Heard(outbox)
    with caplog.at_level("INFO"):
        probe: Probe = make_probe()
        recognizer(outbox, Says(KNOWN), tell=[heard]).put([probe])
    assert heard.waiting == [1]
    (message,) = heard.messages
    assert (message.local, message.name, message.decided.person) == (True, "Amy Farrah", "amy")
    assert (message.probe_id, message.track_id) == (probe.probe_id, probe.track_id)
    assert "local decision identified" in caplog.text
    assert "amy" not in caplog.text.lower()


def test_a_hook_gets_the_event_on_its_input(outbox: Outbox, tmp_path: Path) -> None:
    script = tmp_path / "hook.py"
    script.write_text(
        "import sys, pathlib\n"
        f"pathlib.Path({str(tmp_path / 'told')!r}).write_text(sys.stdin.read())\n"
    )
    hook = Hook([sys.executable, str(script)])
    Recognizer(outbox, [Says(KNOWN)], "box-1", lambda: True, [hook]).put([make_probe()])
    hook.close(30)
    told = json.loads((tmp_path / "told").read_text())
    assert (told["local"], told["decided"]["person"], told["camera"]) == (True, "amy", "door")


def test_a_hook_that_fails_or_is_missing_harms_nobody(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    for command in (["/no/such/program"], [sys.executable, "-c", "raise SystemExit(3)"]):
        hook = Hook(command)
        Recognizer(outbox, [Says(KNOWN)], "box-1", lambda: True, [hook]).put([make_probe()])
        hook.close(30)
    assert outbox.counts().waiting == 2
    assert "FileNotFoundError" in caplog.text
    assert "ended with status 3" in caplog.text


def test_a_gallery_needs_a_server_to_follow() -> None:
    table = {
        "cameras": [{"name": "door", "source": "door.mp4"}],
        "gallery": {"mode": "always"},
        "broker": {"url": "mqtt://127.0.0.1"},
    }
    with pytest.raises(ConfigurationError, match="over HTTP, also where probes go through a br"):
        settings_of(table)
    assert settings_of({**table, "server": {"url": "http://127.0.0.1"}}).gallery.max_age_h == 72
