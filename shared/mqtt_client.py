"""MQTT 5 clients of the agent and of the server: address, login, TLS and properties."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from shared.addresses import redacted
from shared.errors import ConfigurationError

_MAX_MESSAGE_BYTES: Final = 1024 * 1024  # a probe has 130 KB, a health message 300 KB at most


@dataclass(frozen=True, slots=True)
class MqttLogin:
    """How a client identifies itself to the broker. No part of it is ever logged."""

    username: str | None = None
    password: str | None = None
    ca_file: Path | None = None  # a private certificate authority of the broker
    certificate_file: Path | None = None  # of the client
    key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Broker:
    """The address of a broker, and the id and login of its client."""

    host: str
    port: int
    tls: bool
    client_id: str
    login: MqttLogin

    @classmethod
    def at(cls, url: str, client_id: str, login: MqttLogin) -> Self:
        """Raises ConfigurationError for an invalid address, or one with a name or password."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:  # a port that is no number from 0 to 65535, or half a bracket
            parts, host, port = urlsplit(""), None, None
        if parts.scheme not in ("mqtt", "mqtts") or not host or parts.username:
            raise ConfigurationError(
                "the broker's address is mqtt://HOST, mqtt://HOST:PORT or mqtts://HOST, not"
                f" {redacted(url)!r}; user name and password have settings of their own"
            )
        tls = parts.scheme == "mqtts"
        return cls(host, port or (8883 if tls else 1883), tls, client_id, login)

    def client(
        self, suffix: str = "", *, manual_ack: bool = False, reconnect: bool = True
    ) -> paho.Client:
        """Returns a client that is not yet connected. `suffix` is added to the client id.

        `manual_ack`: the caller acknowledges messages. `reconnect`: the client connects again by
        itself. Raises ConfigurationError for a certificate that cannot be read.
        """
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self.client_id + suffix,
            protocol=paho.MQTTv5,
            manual_ack=manual_ack,
            reconnect_on_failure=reconnect,
        )
        login = self.login
        if login.username is not None:
            client.username_pw_set(login.username, login.password)
        if self.tls:
            files = (login.ca_file, login.certificate_file, login.key_file)
            authority, certificate, key = (None if file is None else str(file) for file in files)
            try:
                client.tls_set(authority, certificate, key)
            except OSError as error:
                raise ConfigurationError(f"a certificate cannot be read: {error}") from error
        return client


def properties(packet_type: int, **values: int) -> Properties:
    """Returns the properties of one packet, named as in paho."""
    result = Properties(packet_type)  # type: ignore[no-untyped-call]  # paho's own
    for name, value in values.items():
        setattr(result, name, value)
    return result


def connect_properties(**values: int) -> Properties:
    """Returns the properties of a CONNECT packet, with the largest message that is accepted.

    Without that limit, a client that publishes messages of 256 MiB fills the receiver's memory.
    """
    return properties(PacketTypes.CONNECT, MaximumPacketSize=_MAX_MESSAGE_BYTES, **values)
