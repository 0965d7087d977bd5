"""The wire contract: what is accepted, and what is refused with a reason."""

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from shared.ids import new_id
from shared.wire.base import WireModel
from shared.wire.device import HealthMessage, ReportedConfig
from shared.wire.messages import MAX_THUMBNAIL_BYTES, ProbeMessage, TrackMessage
from shared.wire.quality import Quality, QualityFactor
from shared.wire.template import Template, encode_template, unit_rows
from tests.attacks.mqtt import valid_messages


def a_probe(**changes: object) -> dict[str, object]:
    template = Template("test@1", unit_rows(np.ones((1, 512)))[0])
    fields: dict[str, object] = {
        "probe_id": new_id(),
        "device": "box-1",
        "camera": "lobby",
        "sequence": 1,
        "captured_at": datetime.now(UTC).isoformat(),
        "track_id": new_id(),
        "model_id": template.model_id,
        "template": encode_template(template),
        "quality": {"score": 0.8, "factors": []},
        "detection_score": 0.99,
        "box": [10, 20, 110, 140],
        "frame_size": [1280, 720],
    }
    return fields | changes


def test_a_probe_survives_json() -> None:
    probe = ProbeMessage.model_validate(a_probe(liveness=0.5))
    assert ProbeMessage.model_validate_json(probe.model_dump_json()) == probe


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema_version", 2),
        ("probe_id", "../../etc/passwd"),
        ("device", "two words"),
        ("camera", "lobby/+"),
        ("sequence", 0),
        ("captured_at", "2026-11-22T14:45:00"),  # names no moment: no timezone
        ("liveness", float("nan")),
        ("detection_score", 1.5),
        ("box", [110, 20, 10, 140]),
        ("box", [0, 0, float("inf"), 1]),
        ("frame_size", [0, 720]),
        ("thumbnail", base64.b64encode(b"GIF89a").decode()),
        ("thumbnail", "\N{FACE WITH ROLLING EYES}"),
        ("thumbnail", base64.b64encode(b"\xff\xd8\xff" + bytes(MAX_THUMBNAIL_BYTES)).decode()),
        ("colour", "red"),  # unknown
    ],
)
def test_a_probe_with_a_bad_field_is_refused_by_that_field(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as refusal:
        ProbeMessage.model_validate(a_probe(**{field: value}))
    assert refusal.value.errors()[0]["loc"][0] == field


def test_a_thumbnail_comes_back_as_the_bytes_that_were_sent() -> None:
    jpeg = b"\xff\xd8\xff\xe0 and so on"
    probe = ProbeMessage.model_validate(a_probe(thumbnail=base64.b64encode(jpeg).decode()))
    assert probe.thumbnail_jpeg == jpeg
    assert ProbeMessage.model_validate(a_probe()).thumbnail_jpeg is None


def test_quality_names_what_did_not_pass() -> None:
    good = QualityFactor(name="yaw", value=3, low=-10, high=10, passed=True)
    bad = QualityFactor(name="sharpness", value=0.1, low=0.8, high=1, passed=False)
    assert Quality(score=0.2, factors=(good, bad)).reasons == ["sharpness"]
    assert not Quality(score=0.2, factors=(good, bad)).passed
    assert Quality(score=0.9, factors=(good,)).passed


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("probe", ProbeMessage),
        ("health", HealthMessage),
        ("config/reported", ReportedConfig),
        ("track", TrackMessage),
    ],
)
def test_no_text_of_a_message_holds_what_a_database_does_not_keep(
    kind: str, model: type[WireModel]
) -> None:
    message = valid_messages("box-1", datetime.now(UTC))[kind]
    model.model_validate_json(json.dumps(message))
    variants = list(with_nul(message))
    assert len(variants) > 5
    for variant in variants:
        with pytest.raises(ValidationError):
            model.model_validate_json(json.dumps(variant))


def with_nul(value: Any) -> Iterator[Any]:
    """The same value with a NUL character at the end of one of its texts or names."""
    if isinstance(value, str):
        yield value + "\x00"
    elif isinstance(value, dict):
        for name, one in value.items():
            yield {**value, name + "\x00": one}
            yield from ({**value, name: odd} for odd in with_nul(one))
    elif isinstance(value, list):
        for place, one in enumerate(value):
            yield from ([*value[:place], odd, *value[place + 1 :]] for odd in with_nul(one))
