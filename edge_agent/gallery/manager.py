"""All galleries of a device: opened as its settings say, then followed."""

import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from urllib.parse import urlsplit

from edge_agent.config.key_file import device_keys
from edge_agent.config.settings import AgentSettings
from edge_agent.delivery.transport import SendsLocalEvents
from edge_agent.gallery.edge_gallery import EdgeGallery
from edge_agent.gallery.encrypted_store import open_store
from edge_agent.gallery.feed_client import FeedClient
from edge_agent.gallery.local_decision import Hook, Notify, Recognizer, Sink
from edge_agent.gallery.replica import Follower
from shared.clock import Clock, SystemClock
from shared.encryption import Keyring
from shared.errors import ConfigurationError, Damaged, KeyMissing, Unavailable

log = logging.getLogger(__name__)


class Galleries:
    """The galleries of a device. `start` begins to follow their feeds.

    Raises ConfigurationError where no server or no encryption key is configured.
    """

    def __init__(self, settings: AgentSettings, model_id: str, clock: Clock | None = None) -> None:
        own, server = settings.gallery, settings.server
        if server is None:
            raise ConfigurationError(
                f"[gallery] mode = {own.mode!r} follows the change feed over HTTP, also where "
                "probes go through a broker: give [server] url and its key"
            )
        if _is_unencrypted(server.url):
            log.warning("Templates come from %s without TLS: give it a certificate", server.url)
        self._mode = own.mode
        self._device = settings.device
        self._hook = Hook(own.hook) if own.hook else None
        self._problems: list[str] = []
        self.followers: list[Follower] = []
        clock = clock or SystemClock()
        try:
            keys = device_keys(settings.state_dir, own.key_file)
        except Unavailable as error:  # the disk is full: the cameras go on without galleries
            self._problems.append(error.message)
            log.error("Galleries are left out until the next start: %s", error.message)
            return
        for name in own.collections:
            client = FeedClient(
                server.url,
                server.key(),
                settings.device,
                keep_h=own.max_age_h,
                ca_file=server.ca_file,
                timeouts=server.timeouts,
            )
            try:
                gallery = _open(settings, name, model_id, keys, clock)
            except Unavailable as error:  # the cameras go on without it
                self._problems.append(f"Gallery {name}: {error.message}")
                log.error("Gallery %s is left out until the next start: %s", name, error.message)
                continue
            self.followers.append(Follower(gallery, client, clock=clock))

    def start(self) -> None:
        for follower in self.followers:
            follower.start()

    def recognizer(
        self, sink: Sink, transport: object, complaint: Callable[[], str | None]
    ) -> Recognizer:
        """Returns the step between a pipeline and its outbox.

        `complaint` returns why nothing can be delivered, or None.
        """
        notify: list[Notify] = [] if self._hook is None else [self._hook]
        if isinstance(transport, SendsLocalEvents):
            notify.append(transport.send_local)

        def decides_here() -> bool:
            return self._mode == "always" or complaint() is not None or not self.in_touch

        galleries = [follower.gallery for follower in self.followers]
        return Recognizer(sink, galleries, self._device, decides_here, notify)

    @property
    def in_touch(self) -> bool:
        """Whether the last request of every follower succeeded."""
        return all(follower.in_touch for follower in self.followers)

    def seq(self) -> dict[str, int]:
        """Returns by collection the number of the last change, for the health message."""
        states = [(f.gallery.collection, f.gallery.state) for f in self.followers]
        return {name: state.seq for name, state in states if state is not None and state.whole}

    def problems(self) -> Sequence[str]:
        """Returns a sentence for each gallery that cannot decide or follow its feed."""
        reasons = [
            (
                follower.gallery.collection,
                follower.complaint or follower.gallery.unusable() or follower.gallery.damage,
            )
            for follower in self.followers
        ]
        problems = [f"Gallery {name}: {why}" for name, why in reasons if why is not None]
        return [*self._problems, *problems]

    def close(self, timeout_s: float) -> None:
        for follower in self.followers:
            follower.stop(timeout_s)
        if self._hook is not None:
            self._hook.close(timeout_s)


def _open(
    settings: AgentSettings, name: str, model_id: str, keys: Keyring, clock: Clock
) -> EdgeGallery:
    """Opens the gallery on the disk; an empty one where the file cannot be read."""
    path, max_bytes = settings.gallery_path(name), settings.gallery.max_mib * 1024 * 1024
    store, state, why = open_store(path, name, keys, max_bytes=max_bytes)
    if why is not None:
        log.error("Gallery %s is downloaded again: %s", name, why)
    keep = timedelta(hours=settings.gallery.max_age_h)
    gallery = EdgeGallery(store, name, model_id, keep, clock)
    try:
        gallery.load(state)
        gallery.tidy()
    except (Damaged, KeyMissing) as error:
        log.error("Gallery %s is downloaded again: %s", name, error.message)
        gallery.clear()
    return gallery


def _is_unencrypted(url: str) -> bool:
    """Returns whether the network can read along: no TLS, and not this machine."""
    parts = urlsplit(url)
    return parts.scheme != "https" and parts.hostname not in ("localhost", "127.0.0.1", "::1")
