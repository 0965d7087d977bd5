"""Where the broker is, and a client that is signed in to it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from match_server.settings import Settings
from shared.errors import ConfigurationError
from shared.unreachable import why_unreachable

_MOST_BYTES: Final = 1024 * 1024  # of a message: a probe has 130 KB, health 300 KB at most
_TRUST: Final = "set broker_ca_file to the authority that signed it"


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is and how to sign in."""

    host: str
    port: int
    tls: bool
    username: str | None
    password: str | None
    client_id: str
    ca_file: Path | None = None  # the authority that signed its certificate, if no public one did


def broker_of(settings: Settings) -> Broker:
    """The broker in the settings. Raises ConfigurationError for an address that is none."""
    parts = urlsplit(settings.broker)
    try:
        port = parts.port
        usable = parts.scheme in ("mqtt", "mqtts") and bool(parts.hostname) and not parts.username
    except ValueError:  # a port that is no number
        port, usable = None, False
    if not usable or parts.hostname is None:
        raise ConfigurationError(
            "the broker is given as mqtt://HOST:PORT or mqtts://HOST:PORT; user name and password "
            "are the settings broker_username and broker_password"
        )
    tls = parts.scheme == "mqtts"
    return Broker(
        host=parts.hostname,
        port=port or (8883 if tls else 1883),
        tls=tls,
        username=settings.broker_username,
        password=settings.broker_password,
        client_id=settings.ingest_client_id,
        ca_file=settings.broker_ca_file,
    )


def client_of(
    broker: Broker, *, client_id: str | None = None, manual_ack: bool = False
) -> mqtt.Client:
    """An MQTT 5 client of this broker, not yet connected; its owner reconnects it."""
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2,
        client_id=client_id or broker.client_id,
        protocol=mqtt.MQTTv5,
        manual_ack=manual_ack,
        reconnect_on_failure=False,  # the owner does it, also when the database was away
    )
    if broker.username is not None:
        client.username_pw_set(broker.username, broker.password)
    if broker.tls:
        client.tls_set(ca_certs=None if broker.ca_file is None else str(broker.ca_file))
    return client


def connect_properties(**values: int) -> Properties:
    """What is said to the broker at the beginning: among it, how large a message may be.

    Else a device that publishes messages of 256 MiB fills the memory of whoever takes them.
    """
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    for name, value in {"MaximumPacketSize": _MOST_BYTES, **values}.items():
        setattr(properties, name, value)
    return properties


def why_no_broker(error: BaseException) -> str:
    """Why a connection could not be made, and what to do about it, for the log."""
    why = why_unreachable(error, trust=_TRUST, plain="mqtt://")
    return f"{why.found}; {why.advice}"
