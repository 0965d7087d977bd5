"""Calibrations that collections adopt."""

from datetime import datetime

from pydantic import JsonValue
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from match_server.calibration.calibration import limits_of
from match_server.db.database import Database
from match_server.db.tables import Calibration, Collection
from match_server.schemas.base import Page, Paging
from match_server.schemas.calibrations import (
    CalibrationAdopted,
    CalibrationFile,
    CalibrationLine,
    CalibrationRemoved,
    CalibrationView,
)
from match_server.services.change_feed import record
from match_server.services.collection_ref import scope_named
from match_server.services.enrollment.collections import policy_of
from match_server.services.lookups import collection_named
from match_server.services.paging import each, page_of
from match_server.services.recognition.operating_point import OperatingPoints
from shared.clock import Clock
from shared.errors import Conflict, ModelMismatch, NotFound, Unusable


class Calibrations:
    """Adopting, reading and taking away what was measured of a collection's model."""

    def __init__(self, database: Database, clock: Clock, points: OperatingPoints) -> None:
        self._database = database
        self._clock = clock
        self._points = points

    def adopt(self, collection: str, file: CalibrationFile) -> CalibrationAdopted:
        """From now on the collection decides by this calibration; the last one is retired.

        Raises ModelMismatch for another model's, Unusable when the file was changed or damaged.
        """
        if file.sha256 != file.digest():
            raise Unusable(
                "the calibration is not as it was written: its checksum does not fit; adopt the "
                "file that `match-server evaluate` wrote, unchanged",
                reasons=["damaged"],
            )
        now = self._clock.now()
        with self._database.write() as session:
            owner = collection_named(session, collection)
            if file.model_id != owner.model_id:
                raise ModelMismatch(
                    f"the calibration is of {file.model_id!r}, and collection {owner.name!r} holds "
                    f"templates of {owner.model_id!r}: thresholds of two models have nothing in "
                    "common"
                )
            _retire(session, owner, now=now)
            row = Calibration(
                collection_number=owner.number,
                model_id=file.model_id,
                sha256=file.sha256,
                file=file.model_dump(mode="json"),
                adopted_at=now,
            )
            session.add(row)
            details: dict[str, JsonValue] = {"fields": ["calibration"], "sha256": file.sha256}
            seq = record(
                session, owner.number, "collection_updated", owner.name, now, details=details
            )
            session.flush()
            view, scope = _view(row), scope_named(session, owner.name)
        return CalibrationAdopted(
            seq=seq, operating_point=self._points.of(scope).view, **dict(view)
        )

    def get(self, collection: str) -> CalibrationView:
        """The calibration in use, else the model's reference. Raises NotFound for neither."""
        with self._database.read() as session:
            owner = collection_named(session, collection)
            number = scope_named(session, owner.name).calibration
            row = None if number is None else session.get(Calibration, number)
        if row is not None:
            return _view(row)
        reference = self._points.references.calibration(owner.model_id)
        if reference is None:
            raise NotFound(
                f"collection {collection!r} has adopted no calibration of {owner.model_id!r}, and "
                "the model's pack brings none; `match-server evaluate` measures one"
            )
        return CalibrationView(
            calibration_from="reference",
            adopted_at=None,
            retired_at=None,
            limits=limits_of(reference.file),
            calibration=reference.file,
        )

    def history(self, collection: str, paging: Paging) -> Page[CalibrationLine]:
        """All that were ever adopted, the newest first."""
        with self._database.read() as session:
            owner = collection_named(session, collection)
            wanted = select(Calibration).where(Calibration.collection_number == owner.number)
            newest_first = Calibration.number.desc()
            return page_of(session, wanted, paging, newest_first, views=each(_line))

    def remove(self, collection: str) -> CalibrationRemoved:
        """Retire the calibration in use; the model's reference takes its place.

        Raises Conflict when there is no reference and the policy derives its threshold.
        """
        now = self._clock.now()
        with self._database.write() as session:
            owner = collection_named(session, collection)
            reference = self._points.references.calibration(owner.model_id)
            if policy_of(owner).threshold is None and reference is None:
                raise Conflict(
                    "the policy derives its threshold from the calibration: give it a `threshold` "
                    "first"
                )
            if not _retire(session, owner, now=now):
                raise NotFound(f"collection {collection!r} has adopted no calibration")
            seq = record(
                session,
                owner.number,
                "collection_updated",
                owner.name,
                now,
                details={"fields": ["calibration"]},
            )
            return CalibrationRemoved(seq=seq, collection=owner.name)


def _retire(session: Session, owner: Collection, *, now: datetime) -> bool:
    """Whether there was one to retire. Those of other models stay: a change may be undone."""
    retired = session.execute(
        update(Calibration)
        .where(
            Calibration.collection_number == owner.number,
            Calibration.model_id == owner.model_id,
            Calibration.retired_at.is_(None),
        )
        .values(retired_at=now)
        .returning(Calibration.number)
    ).all()
    return bool(retired)


def _view(row: Calibration) -> CalibrationView:
    file = CalibrationFile.model_validate(row.file)
    return CalibrationView(
        calibration_from="own" if file.reference is None else "reference",
        adopted_at=row.adopted_at,
        retired_at=row.retired_at,
        limits=limits_of(file),
        calibration=file,
    )


def _line(row: Calibration) -> CalibrationLine:
    file = CalibrationFile.model_validate(row.file)
    return CalibrationLine(
        sha256=row.sha256,
        measured_at=file.measured_at,
        adopted_at=row.adopted_at,
        retired_at=row.retired_at,
        persons=file.data.persons,
        pictures=file.data.pictures,
        eer=file.eer,
    )
