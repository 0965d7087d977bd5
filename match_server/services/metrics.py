"""Figures for Prometheus: what was counted in all processes, and what the database says now.

Worker processes are forked and each request is served by one of them, so counts are kept in small
files that all processes map (prometheus-client's multiprocess mode); `share_metrics` chooses it,
before the library is first imported, and `ingest` over the same data folder joins in. The files lie
in memory (`/dev/shm`), where a full or read-only disk does not matter, and in the data folder where
there is none.
"""

import hashlib
import logging
import mmap
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from match_server.db.database import Connections
from shared.files import reserve

if TYPE_CHECKING:
    from prometheus_client import Metric

log = logging.getLogger(__name__)

_MEMORY = Path("/dev/shm")  # noqa: S108  # a folder of its own in it, private to the user
_NAME = "muster-metrics-"
_ENTRY_BYTES = 64  # of a count, at most, besides its name
_SHARED = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_PARTY = (1, 2, 4, 8, 16, 32, 64, 128)

Gauges = Callable[[], Iterator[tuple[str, str, Mapping[tuple[tuple[str, str], ...], float]]]]
"""Name, help and values by labels, read when Prometheus asks."""


def share_metrics(data_dir: Path) -> None:
    """Let this process and its children count together with the others of this data folder.

    Before the first `Metrics` of the process. What processes that are gone have counted is
    forgotten by the first that starts: Prometheus knows counters that begin anew.
    """
    if _SHARED not in os.environ:
        os.environ[_SHARED] = str(_folder_in_memory(data_dir) or data_dir / "metrics")
    folder = Path(os.environ[_SHARED])
    for one in {folder, *_own_folders_in_memory(), data_dir / "metrics"}:
        _forget_the_dead(one)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        log.warning("Processes count each for itself", extra={"why": error.strerror})
        del os.environ[_SHARED]
        return
    _reserve_before_mapping()


def end_sharing() -> None:
    """This process ends, and its children have: what they counted goes, and an empty folder."""
    folder = os.environ.get(_SHARED)
    if folder is not None:
        _forget_the_dead(Path(folder), os.getpid())


def _folder_in_memory(data_dir: Path) -> Path | None:
    """This data folder's folder in shared memory; None where there is none that is ours alone."""
    name = hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:16]
    folder = _MEMORY / f"{_NAME}{os.geteuid()}-{name}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return None
    private = stat.S_ISDIR(status.st_mode) and not stat.S_IMODE(status.st_mode) & 0o077
    return folder if private and status.st_uid == os.geteuid() else None


def _own_folders_in_memory() -> list[Path]:
    """Those of all data folders of this user: a server that was killed has left its own."""
    return [one for one in _MEMORY.glob(f"{_NAME}{os.geteuid()}-*") if not one.is_symlink()]


def _forget_the_dead(folder: Path, ended: int | None = None) -> None:
    """Delete what processes have counted that are gone, and the folder where nothing is left."""
    with suppress(OSError):
        for file in folder.glob("*.db"):
            pid = file.stem.rpartition("_")[2]
            if pid == str(ended) or not (pid.isdigit() and Path(f"/proc/{pid}").exists()):
                file.unlink(missing_ok=True)
        folder.rmdir()  # fails, as it should, where another process counts


def _reserve_before_mapping() -> None:
    """Let the library map only what is really there.

    It maps sparse files: a count that meets a page for which there is no room left ends the process
    with SIGBUS. Without room a process counts for itself alone, and the log says so.
    """
    from prometheus_client import mmap_dict, values

    first_bytes: int = mmap_dict._INITIAL_MMAP_SIZE

    class Reserved(mmap_dict.MmapedDict):
        def __init__(self, filename: str, read_mode: bool = False) -> None:
            self._alone = not (read_mode or _reserved(filename, first_bytes))
            if not self._alone:
                super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]
                return
            descriptor = os.memfd_create("muster-metrics")
            try:
                super().__init__(f"/proc/self/fd/{descriptor}")  # type: ignore[no-untyped-call]
            finally:
                os.close(descriptor)

        def _init_value(self, key: str) -> None:
            needed = self._used + len(key.encode()) + _ENTRY_BYTES
            if not self._alone and needed > self._capacity:
                self._alone = not _reserved(self._fname, 2 * self._capacity)
                if self._alone:
                    self._move_into_private_memory()
            super()._init_value(key)  # type: ignore[no-untyped-call]

        def _move_into_private_memory(self) -> None:
            private = os.fdopen(os.memfd_create("muster-metrics"), "a+b")
            private.write(self._m[:])
            private.flush()
            self._f.close()
            self._f, self._m = private, mmap.mmap(private.fileno(), self._capacity)

    values.MmapedDict = Reserved  # type: ignore[attr-defined]


def _reserved(file: str, size: int) -> bool:
    """Whether a file, made where it is missing, has at least so many bytes on its disk."""
    try:
        Path(file).parent.mkdir(exist_ok=True, mode=0o700)  # whoever ended may have removed it
        with Path(file).open("ab") as opened:
            reserve(opened.fileno(), size)
    except OSError as error:
        log.warning("What this process counts is not shared", extra={"why": error.strerror})
        with suppress(OSError):
            if not Path(file).stat().st_size:  # who reads all files would stumble over it
                Path(file).unlink()
        return False
    return True


def forget_process(pid: int) -> None:
    """A worker has ended: what it counted stays, what only it could say goes."""
    if _SHARED in os.environ:
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(pid)  # type: ignore[no-untyped-call]


class Metrics:
    """What one process counts and measures. Names of people, ids and addresses are no labels."""

    def __init__(self) -> None:
        # Not before: the library decides at its import whether counts are shared.
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
            "muster_probes", "Probes by what became of them.", ("status",), registry=self._registry
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
            "Searches that one scan answered.",
            buckets=_PARTY,
            registry=self._registry,
        )
        self._deliveries = Counter(
            "muster_events_deliveries",
            "Events told to others, by way (mqtt, webhook) and outcome.",
            ("way", "outcome"),
            registry=self._registry,
        )

        self._retention = Counter(
            "muster_retention_deleted",
            "What was deleted because it was old: events, snapshots, probes, persons.",
            ("what",),
            registry=self._registry,
        )

        # Of each process that lives, under its number: what only it can say.
        self._lag = Gauge(
            "muster_gallery_lag",
            "Changes that this process has not applied; it does before its next search.",
            registry=self._registry,
            multiprocess_mode="liveall",
        )
        self._damaged = Gauge(
            "muster_gallery_damaged_templates",
            "Templates that this process could not read: nobody is found by them.",
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

    def process(self, *, lag: int, damaged: int, connections: Connections) -> None:
        """How this process is now."""
        self._lag.set(lag)
        self._damaged.set(damaged)
        for state in ("in_use", "idle", "most"):
            self._connections.labels(state).set(getattr(connections, state))

    def request(self, rule: str, method: str, status: int, seconds: float) -> None:
        self._requests.labels(rule, method, str(status)).observe(seconds)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measures a stage; one that raises is not counted."""
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

    def delivery(self, way: str, outcome: str, count: int = 1) -> None:
        self._deliveries.labels(way, outcome).inc(count)

    def exposition(self, gauges: Gauges) -> tuple[bytes, str]:
        """The text for Prometheus, and its media type."""
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector
        from prometheus_client.registry import Collector

        class AsTheyAre(Collector):
            def collect(self) -> Iterator["Metric"]:
                return _families(gauges)

        counted = self._registry
        if _SHARED in os.environ:
            counted = CollectorRegistry()
            MultiProcessCollector(counted)  # type: ignore[no-untyped-call]
        now = CollectorRegistry()
        now.register(AsTheyAre())
        return generate_latest(counted) + generate_latest(now), CONTENT_TYPE_LATEST


def _families(gauges: Gauges) -> Iterator["Metric"]:
    from prometheus_client.core import GaugeMetricFamily

    for name, text, values in gauges():
        labels = [label for label, _ in next(iter(values), ())]
        family = GaugeMetricFamily(name, text, labels=labels)
        for where, value in values.items():
            family.add_metric([said for _, said in where], value)
        yield family


def disk_free_bytes(folder: Path) -> float:
    with suppress(OSError):
        return float(shutil.disk_usage(folder).free)
    return float("nan")
