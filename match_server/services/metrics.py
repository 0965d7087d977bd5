"""Metrics for Prometheus: what the processes have counted, and gauges that are read now."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Literal

from match_server.db.database import Connections
from match_server.services.metrics_sharing import sharing

if TYPE_CHECKING:
    from prometheus_client import Metric

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SEARCHES = (1, 2, 4, 8, 16, 32, 64, 128)

Gauges = Callable[[], Iterator[tuple[str, str, Mapping[tuple[tuple[str, str], ...], float]]]]
"""Yields name, help text and values by labels. Read at each request of Prometheus."""


class Metrics:
    """What one process counts and measures. Names of people, ids and addresses are never labels."""

    def __init__(self) -> None:
        # Imported here, because the library decides at its import whether counts are shared.
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._registry = CollectorRegistry()
        self._requests = Histogram(
            "muster_request_seconds",
            "Requests by rule, method and status.",
            ("rule", "method", "status"),
            buckets=_SECONDS,
            registry=self._registry,
        )
        stages = Histogram(
            "muster_probe_stage_seconds",
            "Stages of taking probes in: decode, search, store (a list of probes counts once).",
            ("stage",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._stages = {name: stages.labels(name) for name in ("decode", "search", "store")}
        self._probes = Counter(
            "muster_probes", "Received probes by status.", ("status",), registry=self._registry
        )
        self._decisions = Counter(
            "muster_probe_decisions",
            "Accepted probes by decision of their sighting.",
            ("decision", "live"),
            registry=self._registry,
        )
        self._scans = Histogram(
            "muster_gallery_scan_seconds",
            "Scans of galleries, each for all searches that were waiting.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._gathered = Histogram(
            "muster_gallery_scan_searches",
            "Searches of one scan.",
            buckets=_SEARCHES,
            registry=self._registry,
        )
        self._deliveries = Counter(
            "muster_events_deliveries",
            "Events sent to clients, by way (mqtt, webhook) and outcome.",
            ("way", "outcome"),
            registry=self._registry,
        )
        self._retention = Counter(
            "muster_retention_deleted",
            "What was deleted because it was old: events, snapshots, probes, persons.",
            ("what",),
            registry=self._registry,
        )
        self._mended = Counter(
            "muster_gallery_mended",
            "Galleries that differed from the database and were mended: of a process of this "
            "server, or of a box.",
            ("follower",),
            registry=self._registry,
        )

        # Gauges of each running process, with its process id as a label.
        self._lag = Gauge(
            "muster_gallery_lag",
            "Changes that this process has not applied; it does before its next search.",
            registry=self._registry,
            multiprocess_mode="liveall",
        )
        self._differing = Gauge(
            "muster_gallery_differing",
            "Galleries of this process that differed from the database when they were last "
            "compared, and were mended.",
            registry=self._registry,
            multiprocess_mode="liveall",
        )
        self._damaged = Gauge(
            "muster_gallery_damaged_templates",
            "Templates that this process could not read: searches leave them out.",
            registry=self._registry,
            multiprocess_mode="liveall",
        )
        self._cache_bytes = Gauge(
            "muster_person_cache_bytes",
            "Memory of this process's cache of the persons that searches found.",
            registry=self._registry,
            multiprocess_mode="liveall",
        )
        self._cache_lookups = Gauge(
            "muster_person_cache_lookups",
            "Persons that searches of this process have looked up: in the cache, or not in it.",
            ("outcome",),
            registry=self._registry,
            multiprocess_mode="liveall",
        )
        self._connections = Gauge(
            "muster_database_connections",
            "This process's connections to the database: in use, idle, and how many it may open.",
            ("state",),
            registry=self._registry,
            multiprocess_mode="liveall",
        )

    def process(
        self,
        *,
        lag: int,
        differing: int,
        damaged: int,
        connections: Connections,
        cache_bytes: int,
        cache_hits: int,
        cache_misses: int,
    ) -> None:
        """Set the gauges of this process."""
        self._cache_bytes.set(cache_bytes)
        self._cache_lookups.labels("hit").set(cache_hits)
        self._cache_lookups.labels("miss").set(cache_misses)
        self._lag.set(lag)
        self._differing.set(differing)
        self._damaged.set(damaged)
        for state in ("in_use", "idle", "most"):
            self._connections.labels(state).set(getattr(connections, state))

    def request(self, rule: str, method: str, status: int, seconds: float) -> None:
        self._requests.labels(rule, method, str(status)).observe(seconds)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measures the time of a stage. A stage that raises is not counted."""
        started_s = perf_counter()
        yield
        self._stages[name].observe(perf_counter() - started_s)

    def probe(self, status: str, decision: str | None = None, *, live: bool = False) -> None:
        self._probes.labels(status).inc()
        if decision is not None:
            self._decisions.labels(decision, "true" if live else "false").inc()

    def scan(self, searches: int, seconds: float) -> None:
        self._scans.observe(seconds)
        self._gathered.observe(searches)

    def retention(self, what: str, count: int) -> None:
        if count:
            self._retention.labels(what).inc(count)

    def mended(self, follower: Literal["process", "box"]) -> None:
        self._mended.labels(follower).inc()

    def delivery(self, way: str, outcome: str, count: int = 1) -> None:
        self._deliveries.labels(way, outcome).inc(count)

    def exposition(self, gauges: Gauges) -> tuple[bytes, str]:
        """The text for Prometheus, and its media type."""
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector
        from prometheus_client.registry import Collector

        class Current(Collector):
            def collect(self) -> Iterator["Metric"]:
                return _families(gauges)

        counted = self._registry
        if sharing():
            counted = CollectorRegistry()
            MultiProcessCollector(counted)  # type: ignore[no-untyped-call]
        now = CollectorRegistry()
        now.register(Current())
        return generate_latest(counted) + generate_latest(now), CONTENT_TYPE_LATEST


def _families(gauges: Gauges) -> Iterator["Metric"]:
    from prometheus_client.core import GaugeMetricFamily

    for name, text, values in gauges():
        labels = [label for label, _ in next(iter(values), ())]
        family = GaugeMetricFamily(name, text, labels=labels)
        for where, value in values.items():
            family.add_metric([label for _, label in where], value)
        yield family


def disk_free_bytes(folder: Path) -> float:
    with suppress(OSError):
        return float(shutil.disk_usage(folder).free)
    return float("nan")
