"""Checks the galleries on the device's disk for `edge-agent doctor`, without the server.

A request to the server would acknowledge changes that this process has not applied.
"""

from collections.abc import Iterator
from datetime import timedelta

from edge_agent.config.key_file import device_keys
from edge_agent.config.settings import AgentSettings
from edge_agent.gallery.edge_gallery import EdgeGallery
from edge_agent.gallery.encrypted_store import open_store
from models.packs.manifest import built_in_manifest
from shared.checks import Check
from shared.clock import Clock
from shared.errors import MusterError


def examine_galleries(settings: AgentSettings, clock: Clock) -> Iterator[Check]:
    """Returns one check for each collection; a failed check never raises."""
    for name in settings.gallery.collections:
        try:
            yield _gallery(settings, name, clock)
        except MusterError as error:
            advice = "the agent downloads everything again when it starts"
            yield Check(f"gallery {name}", "bad", error.message, advice)


def _gallery(settings: AgentSettings, name: str, clock: Clock) -> Check:
    label, path = f"gallery {name}", settings.gallery_path(name)
    advice = (
        "does the agent run, and may it hold the collection? On the server: "
        f"match-server device gallery --device {settings.device} --give {name}"
    )
    if not path.exists():
        return Check(label, "doubtful", "nothing has been received yet", advice)
    keys = device_keys(settings.state_dir, settings.gallery.key_file)
    store, state, _ = open_store(path, name, keys, repair=False)
    try:
        if state is None:
            return Check(label, "doubtful", "it is empty", advice)
        keep = timedelta(hours=settings.gallery.max_age_h)
        model_id = built_in_manifest().pack(settings.models.pack).model_id or ""
        gallery = EdgeGallery(store, name, model_id, keep, clock)
        gallery.load(state)
        message = f"{len(gallery)} templates, followed to {state.seq}"
        if (unusable := gallery.unusable()) is not None:
            advice = "let the box reach the server, which has everything"
            return Check(label, "bad", f"{message}; {unusable}", advice)
        if gallery.damage is not None:
            advice = "let the box reach the server; if it comes again, the card or disk is worn"
            return Check(label, "doubtful", f"{message}; {gallery.damage}", advice)
        ago_h = (gallery.now() - state.server_at).total_seconds() / 3600
        return Check(label, "well", f"{message}; the server was heard {ago_h:.1f} hours ago")
    finally:
        store.close()
