"""The broker in the settings, and why it cannot be reached."""

from typing import Final

from match_server.settings import Settings
from shared.mqtt_client import Broker, MqttLogin
from shared.unreachable import why_unreachable

_TRUST: Final = "set broker_ca_file to the authority that signed it"


def broker_of(settings: Settings) -> Broker:
    """Returns the broker in the settings. Raises ConfigurationError for an invalid address."""
    login = MqttLogin(
        settings.broker_username, settings.broker_password, ca_file=settings.broker_ca_file
    )
    return Broker.at(settings.broker, settings.ingest_client_id, login)


def why_no_broker(error: BaseException) -> str:
    """Returns why a connection failed, and what to do about it, for the log."""
    why = why_unreachable(error, trust=_TRUST, plain="mqtt://")
    return f"{why.cause}; {why.advice}"
