"""The operating point: the threshold that a policy gives at the gallery's present size."""

import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import bindparam, func, select
from sqlalchemy.orm import Session

from match_server.calibration.calibration import Calibration, fmr_for_fpir
from match_server.calibration.likelihood import match_probabilities
from match_server.db.database import Database, Reader
from match_server.db.tables import Calibration as CalibrationRow
from match_server.db.tables import Event
from match_server.schemas.calibrations import CalibrationFile
from match_server.schemas.collections import (
    CalibrationFrom,
    Policy,
    SetBy,
)
from match_server.services.collection_ref import CollectionRef, collection_ref
from match_server.services.policy.candidates import Candidate
from match_server.services.policy.reference_calibrations import ReferenceCalibrations
from shared.clock import Clock
from shared.errors import Conflict

LOOSEST_FPIR = 0.1
"""With any traffic, at most one stranger in ten may be given a name."""

LOOKS_OF_A_TRACK = 2.0
"""The searches of one track count as this many, because they share their shots.

Measured on shots of different days, which are less similar than those of one visit: see
decision 36.
"""

LOOSEST_FMR = 1e-3
"""The highest FMR, for galleries of any size. See decision 38."""

_TRAFFIC_DAYS = 7
_TRAFFIC_KEPT_S = 600.0
_CALIBRATIONS_KEPT = 32


@dataclass(frozen=True, slots=True)
class Traffic:
    """Tracks of persons not enrolled, and the searches that one track counts as."""

    tracks_per_day: float | None  # None: not known
    source: Literal["given", "measured"] | None
    probes_per_track: float = 1.0


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """The present threshold of one collection, and the figures that it is derived from."""

    threshold: float  # cosine, -1..1
    policy: Policy
    calibration: Calibration | None
    templates: int
    persons: int
    traffic: Traffic
    reachable: bool  # False: no threshold reaches the policy's target

    @property
    def margin(self) -> float:
        return self.policy.margin

    @property
    def comparisons(self) -> float:
        """Comparisons that one track of a stranger causes."""
        return max(self.templates, 1) * self.traffic.probes_per_track

    @property
    def calibration_from(self) -> CalibrationFrom | None:
        """Whose calibration it is; None without one."""
        if self.calibration is None:
            return None
        return "own" if self.calibration.file.reference is None else "reference"

    def judged(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """A candidate list (best first) with its match probabilities."""
        if self.calibration is None:
            return list(candidates)
        probabilities = self.probabilities([candidate.similarity for candidate in candidates])
        return [
            candidate._replace(match_probability=probability)
            for candidate, probability in zip(candidates, probabilities, strict=True)
        ]

    def probabilities(self, similarities: Sequence[float]) -> list[float | None]:
        """For each similarity of a candidate list (best first) the match probability."""
        if self.calibration is None:
            return [None] * len(similarities)
        ratio = self.calibration.likelihood
        return list(
            match_probabilities(
                [ratio.log_ratio(similarity) for similarity in similarities], self.persons
            )
        )


def set_by(policy: Policy) -> SetBy:
    """The setting of a policy that determines the threshold."""
    if policy.target_fpir is not None:
        return "target_fpir"
    return "threshold" if policy.threshold is not None else "false_alarms_per_day"


def operating_point(
    collection: CollectionRef, calibration: Calibration | None, traffic: Traffic
) -> OperatingPoint:
    """The operating point of a collection's policy. More templates never lower the threshold.

    A target FPIR (or FPIR = false alarms / traffic) needs an FMR of 1 - (1 - FPIR)^(1/n) in each
    of n comparisons: the number of templates, times the probes of a track. Templates of one person
    are not independent, so the threshold is rather too high than too low. In a small gallery the
    FMR stays at LOOSEST_FMR or below. Without the calibration that a policy needs, the threshold
    is 1 and nobody is named.
    """
    policy = collection.policy
    point = OperatingPoint(
        threshold=1.0 if policy.threshold is None else policy.threshold,
        policy=policy,
        calibration=calibration,
        templates=collection.templates,
        persons=collection.persons,
        traffic=traffic,
        reachable=policy.threshold is not None,
    )
    fpir = _target_fpir(policy, traffic)
    if policy.threshold is not None or calibration is None or fpir is None:
        return point
    derived = calibration.threshold_for(min(fmr_for_fpir(fpir, point.comparisons), LOOSEST_FMR))
    return replace(
        point, threshold=shown_threshold(derived.similarity), reachable=derived.reachable
    )


def shown_threshold(similarity: float) -> float:
    """A threshold rounded up to the shown decimals, so that the shown value decides."""
    return min(math.ceil(similarity * 1e6) / 1e6, 1.0)


class OperatingPoints:
    """The operating points of this server's collections. Thread-safe.

    For a probe this costs some arithmetic: the counts come with the collection that is searched,
    parsed calibrations and measured traffic are cached.
    """

    def __init__(self, database: Database, clock: Clock, references: ReferenceCalibrations) -> None:
        self.references = references
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()  # guards both dictionaries
        self._calibrations: OrderedDict[int, Calibration] = OrderedDict()
        self._traffic: dict[int, tuple[float, Traffic]] = {}  # by collection, with when
        self._last: dict[int, tuple[CollectionRef, OperatingPoint]] = {}  # by collection

    def of(self, collection: CollectionRef, *, searched: int | None = None) -> OperatingPoint:
        """The operating point of a collection as it was read.

        `searched` is the number of templates of a search over several collections.
        """
        calibration = self._calibration(collection)
        traffic = _UNKNOWN_TRAFFIC if calibration is None else self.traffic_of(collection)
        if searched is not None and searched > collection.templates:
            several = replace(collection, templates=searched)
            return operating_point(several, calibration, traffic)
        known, point = self._last.get(collection.number, (None, None))
        if known is not collection or point is None or point.traffic != traffic:
            point = operating_point(collection, calibration, traffic)
            self._last[collection.number] = collection, point
        return point

    def named(self, reader: Reader, collection: str) -> OperatingPoint:
        """The operating point of the collection of that name, as it is now."""
        return self.of(collection_ref(reader, collection))

    def require(self, collection: CollectionRef) -> OperatingPoint:
        """The same for a new policy; Conflict without the calibration or traffic that it needs."""
        calibration = self._calibration(collection)
        policy = collection.policy
        if policy.threshold is not None:
            return self.of(collection)
        if calibration is None:
            raise Conflict(
                f"`{set_by(policy)}` needs a calibration of {collection.model_id!r}: measure one "
                "with `match-server evaluate FOLDER --adopt`, or set a `threshold`: its pack "
                "brings no reference",
                reasons=["no_calibration"],
            )
        traffic = self.traffic_of(collection, refresh=True)
        if policy.false_alarms_per_day is not None and traffic.tracks_per_day is None:
            raise Conflict(
                "`false_alarms_per_day` needs the traffic, which is not known yet: give `traffic` "
                "(tracks of persons not enrolled in a day), or wait until the cameras have "
                "reported for a day",
                reasons=["no_traffic"],
            )
        return operating_point(collection, calibration, traffic)

    def traffic_of(self, collection: CollectionRef, *, refresh: bool = False) -> Traffic:
        """The policy's traffic, else measured from the events of the last days.

        With `refresh` it is measured now, not taken from the cache.
        """
        now_s = self._clock.monotonic_s()
        with self._lock:
            at_s, measured = self._traffic.get(collection.number, (-math.inf, _UNKNOWN_TRAFFIC))
        if refresh or now_s - at_s >= _TRAFFIC_KEPT_S:
            with self._database.read() as session:
                measured = _measured(session, collection.number, self._clock.now())
            with self._lock:
                self._traffic[collection.number] = (now_s, measured)
        policy = collection.policy
        if policy.traffic is not None:
            return Traffic(policy.traffic, "given", measured.probes_per_track)
        least, tracks = policy.least_traffic, measured.tracks_per_day
        if least is None:
            return measured
        return Traffic(max(least, tracks or 0.0), "measured", measured.probes_per_track)

    def of_tracks(self, collection: CollectionRef) -> OperatingPoint:
        """The point for probes of cameras, where one track is searched several times."""
        calibration = self._calibration(collection)
        traffic = _UNKNOWN_TRAFFIC if calibration is None else self.traffic_of(collection)
        counted = replace(traffic, probes_per_track=LOOKS_OF_A_TRACK)
        return operating_point(collection, calibration, counted)

    def _calibration(self, collection: CollectionRef) -> Calibration | None:
        number = collection.calibration
        if number is None:
            return self.references.calibration(collection.model_id)
        with self._lock:
            known = self._calibrations.get(number)
        if known is not None:
            return known
        for (file,) in self._database.execute(_FILE, {"number": number}):
            read = Calibration(CalibrationFile.model_validate(file))
            with self._lock:
                self._calibrations[number] = read
                while len(self._calibrations) > _CALIBRATIONS_KEPT:
                    self._calibrations.popitem(last=False)
            return read
        return None


_UNKNOWN_TRAFFIC = Traffic(None, None)
_FILE = select(CalibrationRow.file).where(CalibrationRow.number == bindparam("number"))


def _measured(session: Session, collection: int, now: datetime) -> Traffic:
    """Unknown tracks of the last days; unknown until the first event is a day old."""
    since = now - timedelta(days=_TRAFFIC_DAYS)
    first = session.scalar(
        select(func.min(Event.received_at)).where(Event.collection_number == collection)
    )
    if first is None or now - first < timedelta(days=1):
        return _UNKNOWN_TRAFFIC
    days = min((now - first) / timedelta(days=1), float(_TRAFFIC_DAYS))
    recent = (Event.collection_number == collection, Event.received_at >= since)
    tracks, probes = session.execute(
        select(func.count(), func.sum(Event.probes)).where(
            *recent, Event.decision == "unknown", Event.merged_into.is_(None)
        )
    ).one()
    each = max(1.0, float(probes or 0) / tracks) if tracks else 1.0
    each = min(each, LOOKS_OF_A_TRACK)
    return Traffic(tracks / days, "measured", each)


def _target_fpir(policy: Policy, traffic: Traffic) -> float | None:
    if policy.target_fpir is not None:
        return policy.target_fpir
    if policy.false_alarms_per_day is None or traffic.tracks_per_day is None:
        return None
    if traffic.tracks_per_day <= 0:
        return LOOSEST_FPIR
    return min(policy.false_alarms_per_day / traffic.tracks_per_day, LOOSEST_FPIR)
