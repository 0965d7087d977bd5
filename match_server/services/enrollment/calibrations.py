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
from match_server.schemas.collections import stored_policy
from match_server.services.change_feed import record
from match_server.services.collection_ref import collection_ref
from match_server.services.lookups import collection_named
from match_server.services.paging import each, page_of
from match_server.services.policy.operating_point import OperatingPoints
from match_server.services.policy.operating_point_view import view_of
from shared.clock import Clock
from shared.errors import Conflict, ModelMismatch, NotFound, Unusable


class Calibrations:
    """Adopts, reads and removes the calibrations of collections."""

    def __init__(self, database: Database, clock: Clock, points: OperatingPoints) -> None:
        self._database = database
        self._clock = clock
        self._points = points

    def adopt(self, collection_name: str, file: CalibrationFile) -> CalibrationAdopted:
        """Use this calibration for the collection, and retire the one before.

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
            collection = collection_named(session, collection_name)
            if file.model_id != collection.model_id:
                raise ModelMismatch(
                    f"the calibration is of {file.model_id!r}, and collection {collection.name!r} "
                    f"holds templates of {collection.model_id!r}: thresholds of two models have "
                    "nothing in common"
                )
            _retire(session, collection, now=now)
            row = Calibration(
                collection_number=collection.number,
                model_id=file.model_id,
                sha256=file.sha256,
                file=file.model_dump(mode="json"),
                adopted_at=now,
            )
            session.add(row)
            details: dict[str, JsonValue] = {"fields": ["calibration"], "sha256": file.sha256}
            seq = record(
                session,
                collection.number,
                "collection_updated",
                collection.name,
                now,
                details=details,
            )
            session.flush()
            view, ref = _view(row), collection_ref(session, collection.name)
        return CalibrationAdopted(
            seq=seq, operating_point=view_of(self._points.of(ref)), **dict(view)
        )

    def get(self, collection_name: str) -> CalibrationView:
        """The calibration in use, else the model's reference. Raises NotFound for neither."""
        with self._database.read() as session:
            collection = collection_named(session, collection_name)
            number = collection_ref(session, collection.name).calibration
            row = None if number is None else session.get(Calibration, number)
        if row is not None:
            return _view(row)
        reference = self._points.references.calibration(collection.model_id)
        if reference is None:
            raise NotFound(
                f"collection {collection_name!r} has adopted no calibration of "
                f"{collection.model_id!r}, and the model's pack brings none; "
                "`match-server evaluate` measures one"
            )
        return CalibrationView(
            calibration_from="reference",
            adopted_at=None,
            retired_at=None,
            limits=limits_of(reference.file),
            calibration=reference.file,
        )

    def history(self, name: str, paging: Paging) -> Page[CalibrationLine]:
        """All calibrations that were ever adopted, the newest first."""
        with self._database.read() as session:
            collection = collection_named(session, name)
            statement = select(Calibration).where(
                Calibration.collection_number == collection.number
            )
            newest_first = Calibration.number.desc()
            return page_of(session, statement, paging, newest_first, views=each(_line))

    def remove(self, collection_name: str) -> CalibrationRemoved:
        """Retire the calibration in use; the model's reference takes its place.

        Raises Conflict when there is no reference and the policy derives its threshold.
        """
        now = self._clock.now()
        with self._database.write() as session:
            collection = collection_named(session, collection_name)
            reference = self._points.references.calibration(collection.model_id)
            if stored_policy(collection.policy).threshold is None and reference is None:
                raise Conflict(
                    "the policy derives its threshold from the calibration: give it a `threshold` "
                    "first"
                )
            if not _retire(session, collection, now=now):
                raise NotFound(f"collection {collection_name!r} has adopted no calibration")
            seq = record(
                session,
                collection.number,
                "collection_updated",
                collection.name,
                now,
                details={"fields": ["calibration"]},
            )
            return CalibrationRemoved(seq=seq, collection=collection.name)


def _retire(session: Session, collection: Collection, *, now: datetime) -> bool:
    """Retire the calibration in use, and return whether there was one.

    Those of other models stay, because a change of model may be undone.
    """
    retired = session.execute(
        update(Calibration)
        .where(
            Calibration.collection_number == collection.number,
            Calibration.model_id == collection.model_id,
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
