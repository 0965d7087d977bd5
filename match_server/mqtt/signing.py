"""Signatures of MQTT messages: checking those of devices, and signing those for devices."""

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from match_server.services.devices.message_keys import MessageKeys
from shared.wire.message_keys import PROPERTY, MessageKey, signature_of
from shared.wire.topics import DeviceTopics


def signer(keys: MessageKeys, topics: DeviceTopics, message: mqtt.MQTTMessage) -> MessageKey | None:
    """Returns the key that signed a message; None if none is needed. Raises Forbidden."""
    signature = signature_of(message.properties)
    return keys.signer(topics, message.topic, bytes(message.payload), signature)


def signed(key: MessageKey | None, topic: str, body: bytes) -> Properties | None:
    """Returns the properties of a signed message to a device; None without a key."""
    if key is None:
        return None
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.UserProperty = (PROPERTY, key.sign(topic, body))
    return properties
