"""`match-server serve`: checks, prepares, and starts gunicorn."""

import logging

from match_server.container import build_services
from match_server.process.bootstrap import prepare
from match_server.process.gunicorn_application import GunicornApplication
from match_server.process.json_logging import set_up_logging
from match_server.process.preflight import (
    allow_many_connections,
    is_loopback,
    require_free_address,
    require_loopback_for_open_page,
    require_sound_tls,
)
from match_server.services.metrics_sharing import share_metrics
from match_server.settings import Settings
from models.packs.choice import DetectorChoice
from models.packs.manifest import built_in_manifest
from models.packs.store import installed
from shared.commands import shown

log = logging.getLogger(__name__)


def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT. Creates and migrates the data folder first."""
    require_loopback_for_open_page(settings)
    require_sound_tls(settings)
    set_up_logging(settings.log_level)
    require_free_address(settings.host, settings.port)
    if not (is_loopback(settings.host) or settings.tls_certificate or settings.trusted_proxies):
        log.warning("Listening for other machines without TLS: others can read keys and faces")
    allow_many_connections()
    prepare(settings)
    share_metrics(settings.data_dir)
    services = build_services(settings)
    hints = _hints(settings, has_key=services.first_start(serves=True))
    services.policy_warnings.log()
    services.close()  # an open connection must not be carried through the fork
    GunicornApplication(settings, hints).run()


def _hints(settings: Settings, *, has_key: bool) -> list[str]:
    """Returns what is still to be done after the first start of a server."""
    lines = []
    if not has_key:
        lines += [
            "There is no key yet. Make one with:",
            f"  {settings.command('key create --role admin')}",
        ]
    if missing := _missing_packs(settings):
        lines += ["Pictures cannot be read yet. Install the face models with:"]
        pull = shown(f"face-models pull {' '.join(missing)}")
        lines += [f"  {pull}"]
    return lines


def _missing_packs(settings: Settings) -> list[str]:
    """Returns the packs that are needed to read pictures and are not installed."""
    name = settings.model_pack
    local = installed(name)
    pack = built_in_manifest().packs.get(name) if local is None else local.pack
    names = [name] if pack is None else [name, DetectorChoice(settings.model_detector).of(pack)]
    return [pack for pack in names if pack is not None and installed(pack) is None]
