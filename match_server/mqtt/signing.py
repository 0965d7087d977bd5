"""Signatures beside the messages of this server's clients at the broker."""

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from match_server.services.devices.message_keys import MessageKeys
from shared.wire.message_keys import PROPERTY, MessageKey, signature_of
from shared.wire.topics import DeviceTopics


def signer(keys: MessageKeys, topics: DeviceTopics, message: mqtt.MQTTMessage) -> MessageKey | None:
    """The key that signed what has come; None: it need not be. Raises Forbidden."""
    signature = signature_of(message.properties)
    return keys.signer(topics, message.topic, bytes(message.payload), signature)


def signed(key: MessageKey | None, topic: str, body: bytes) -> Properties | None:
    """The properties with which a message to a device is published; None without a key."""
    if key is None:
        return None
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.UserProperty = (PROPERTY, key.sign(topic, body))
    return properties
