"""All of a box's galleries, as its settings want them: opened, followed, asked."""

import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from urllib.parse import urlsplit

from edge_agent.config.key_file import device_keys
from edge_agent.config.settings import AgentSettings
from edge_agent.delivery.transport import TellsLocalEvents
from edge_agent.gallery.edge_gallery import LocalGallery
from edge_agent.gallery.encrypted_store import open_store
from edge_agent.gallery.feed_client import FeedClient
from edge_agent.gallery.local_decision import Hook, Recognizer, Sink, Tell
from edge_agent.gallery.replica import Follower
from shared.clock import Clock, SystemClock
from shared.encryption import Keyring
from shared.errors import ConfigurationError, Damaged, KeyMissing, Unavailable

log = logging.getLogger(__name__)


class Galleries:
    """What a box knows by itself. `start` begins to follow the feeds.

    Raises ConfigurationError when there is no server to follow, or no key to encrypt with.
    """

    def __init__(self, settings: AgentSettings, model_id: str, clock: Clock | None = None) -> None:
        wanted, server = settings.gallery, settings.server
        if server is None:
            raise ConfigurationError(
                f"[gallery] mode = {wanted.mode!r} follows the change feed over HTTP, also where "
                "probes go through a broker: give [server] url and its key"
            )
        if _in_the_open(server.url):
            log.warning("Templates come from %s in the open: give it a certificate", server.url)
        self._mode = wanted.mode
        self._device = settings.device
        self._hook = Hook(wanted.hook) if wanted.hook else None
        self._problems: list[str] = []
        self.followers: list[Follower] = []
        clock = clock or SystemClock()
        try:
            keys = device_keys(settings.state_dir, wanted.key_file)
        except Unavailable as error:  # the disk is full: the cameras go on without galleries
            self._problems.append(error.message)
            log.error("Galleries are left out until the next start: %s", error.message)
            return
        for name in wanted.collections:
            client = FeedClient(
                server.url,
                server.key(),
                settings.device,
                keep_h=wanted.max_age_h,
                ca_file=server.ca_file,
                timeouts=server.timeouts,
            )
            try:
                gallery = _opened(settings, name, model_id, keys, clock)
            except Unavailable as error:  # the cameras go on without it
                self._problems.append(f"Gallery {name}: {error.message}")
                log.error("Gallery %s is left out until the next start: %s", name, error.message)
                continue
            self.followers.append(Follower(gallery, client, clock=clock))

    def start(self) -> None:
        for follower in self.followers:
            follower.start()

    def recognizer(
        self, sink: Sink, road: object, complaint: Callable[[], str | None]
    ) -> Recognizer:
        """Between a pipeline and its outbox. `complaint`: why nothing can be delivered, if so."""
        tell: list[Tell] = [] if self._hook is None else [self._hook]
        if isinstance(road, TellsLocalEvents):
            tell.append(road.send_local)

        def is_wanted() -> bool:
            return self._mode == "always" or complaint() is not None or not self.in_touch

        galleries = [follower.gallery for follower in self.followers]
        return Recognizer(sink, galleries, self._device, is_wanted, tell)

    @property
    def in_touch(self) -> bool:
        """Whether the server answered every follower when it was last asked."""
        return all(follower.in_touch for follower in self.followers)

    def seq(self) -> dict[str, int]:
        """By collection: how far the feed was followed. For the health message."""
        reached = [(one.gallery.collection, one.gallery.state) for one in self.followers]
        return {name: state.seq for name, state in reached if state is not None and state.whole}

    def problems(self) -> Sequence[str]:
        """Why decisions cannot be made, or the feed not followed; one sentence a gallery."""
        reasons = [
            (
                one.gallery.collection,
                one.complaint or one.gallery.unusable() or one.gallery.damage,
            )
            for one in self.followers
        ]
        found = [f"Gallery {name}: {why}" for name, why in reasons if why is not None]
        return [*self._problems, *found]

    def close(self, timeout_s: float) -> None:
        for follower in self.followers:
            follower.stop(timeout_s)
        if self._hook is not None:
            self._hook.close(timeout_s)


def _opened(
    settings: AgentSettings, name: str, model_id: str, keys: Keyring, clock: Clock
) -> LocalGallery:
    """The gallery as it is on the disk; an empty one where that cannot be read."""
    path, most = settings.gallery_path(name), settings.gallery.max_mib * 1024 * 1024
    store, state, why = open_store(path, name, keys, max_bytes=most)
    if why is not None:
        log.error("Gallery %s is fetched anew: %s", name, why)
    keep = timedelta(hours=settings.gallery.max_age_h)
    gallery = LocalGallery(store, name, model_id, keep, clock)
    try:
        gallery.load(state)
        gallery.tidy()
    except (Damaged, KeyMissing) as error:
        log.error("Gallery %s is fetched anew: %s", name, error.message)
        gallery.clear()
    return gallery


def _in_the_open(url: str) -> bool:
    """Whether others on the way could read along: no TLS, and not this machine."""
    parts = urlsplit(url)
    return parts.scheme != "https" and parts.hostname not in ("localhost", "127.0.0.1", "::1")
