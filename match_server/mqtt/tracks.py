"""Track messages of boxes, as they come over MQTT."""

import logging

from pydantic import ValidationError

from match_server.mqtt.intake import Listening
from match_server.services.presence import Presence
from shared.wire.messages import TrackMessage
from shared.wire.topics import DeviceTopics

log = logging.getLogger(__name__)


def track_listening(presence: Presence) -> Listening:
    """Lets the consumer take what boxes say of tracks."""

    def take(topics: DeviceTopics, payload: bytes) -> None:
        try:
            message = TrackMessage.model_validate_json(payload)
        except ValidationError:
            log.warning(
                "a track message that is none is left aside", extra={"device": topics.device}
            )
            return
        if message.device == topics.device:
            presence.note([message])

    return Listening("track", take, shared=True)
