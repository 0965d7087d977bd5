"""`match-server ingest`: the process between the broker and the database."""

import logging
import signal
import threading
import time
from importlib.metadata import version

from match_server.container import Services, build_services
from match_server.data_folder import NoData
from match_server.db.leader_lock import leader_lock
from match_server.mqtt.client import broker_of
from match_server.mqtt.device_reports import DeviceReports
from match_server.mqtt.homeassistant import Discovery
from match_server.mqtt.intake import Consumer
from match_server.mqtt.publisher import Publisher
from match_server.mqtt.sensors import Sensors
from match_server.process.bootstrap import require_data
from match_server.process.json_logging import set_up_logging
from match_server.process.notifiers import webhook_deliverer
from match_server.services.metrics_sharing import end_sharing, share_metrics
from match_server.settings import Settings
from shared.mqtt_client import Broker

__all__ = ["Broker", "Consumer", "broker_of", "run_ingest"]

log = logging.getLogger(__name__)

_SERVER_S = 30.0  # that a server may take to create its data, at its first start
_LOOK_S = 2.0
_REPORTS_S = 5.0  # for the reports in work at the end


def run_ingest(settings: Settings) -> None:
    """Consumes until SIGTERM or SIGINT."""
    set_up_logging(settings.log_level)
    broker = broker_of(settings)
    _await_data(settings)
    share_metrics(settings.data_dir)
    services = build_services(settings)
    services.first_start()
    services.background.start("ingest")
    keys = services.message_keys
    consumer = Consumer(broker, services.probes, services.presence, keys)
    reports = DeviceReports(broker, services.health_reports, services.configurations, keys)
    reporting = threading.Thread(target=reports.run, name="device-reports", daemon=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: consumer.stop())
    notifiers = (event_publisher(services, broker), webhook_deliverer(services))
    reporting.start()
    for notifier in notifiers:
        notifier.start()
    try:
        consumer.run()
    finally:
        for notifier in notifiers:
            notifier.close()
        reports.stop()
        reporting.join(_REPORTS_S)
        services.close()
        end_sharing()


def _await_data(settings: Settings) -> None:
    """Waits a moment for a server that was started at the same time. Raises NoData."""
    until_s = time.monotonic() + _SERVER_S
    while True:
        try:
            require_data(settings)
            return
        except NoData as error:
            if time.monotonic() > until_s:
                raise
            log.warning("Waiting for the server: %s", error.message)
        time.sleep(_LOOK_S)


def event_publisher(services: Services, broker: Broker) -> Publisher:
    """Returns the publisher of events, which works while it holds the leader lock."""
    settings = services.settings
    discovery = Discovery(
        settings.home_assistant_prefix, settings.home_assistant_node, version("muster")
    )
    return Publisher(
        broker,
        services.event_feed,
        leader_lock(services.database, "mqtt-events", settings.data_dir),
        services.clock,
        Sensors(
            services.presence,
            discovery if settings.home_assistant else None,
            double_take=settings.double_take,
        ),
        services.metrics,
    )
