"""Reads messages of devices, as untrusted input."""

import logging
from typing import TypeVar

from pydantic import ValidationError

from shared.wire.device import HealthMessage, ReportedConfig
from shared.wire.messages import StatusMessage, TrackMessage
from shared.wire.topics import DeviceTopics

log = logging.getLogger(__name__)

Message = TypeVar("Message", StatusMessage, TrackMessage, HealthMessage, ReportedConfig)


def read_message(
    kind: type[Message], topics: DeviceTopics, payload: bytes | bytearray
) -> Message | None:
    """Returns the message; None, with a log line, if it is invalid or about another device."""
    try:
        message = kind.model_validate_json(payload)
    except ValidationError:
        log.warning("Ignored an invalid %s", kind.__name__, extra={"device": topics.device})
        return None
    if message.device != topics.device:
        extra = {"device": topics.device}
        log.warning("Ignored a %s about another device", kind.__name__, extra=extra)
        return None
    return message
