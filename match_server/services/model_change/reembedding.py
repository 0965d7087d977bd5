"""Changes a collection's model: templates are prepared, switched in one step, and switched back.

While new templates are made from the kept photos, searches use the old ones. The switch is one
transaction: the templates of both models change places, and with them the collection's model and
policy. Until `finish` the old templates stay, so that the same step switches back.
"""

from collections.abc import Callable
from typing import Any

from sqlalchemy import ColumnElement, delete, func, insert, select
from sqlalchemy.orm import Session

from match_server.db.tables import (
    Collection,
    Json,
    ModelChange,
    SpareTemplate,
    Template,
    Unembedded,
)
from match_server.schemas.collections import SETS_THE_POINT, stored_policy
from match_server.services.audit.chain import Note, note
from match_server.services.change_feed import record
from match_server.services.faces.face_engine import FaceEngine
from match_server.services.lookups import collection_named, count_of
from match_server.services.model_change.preparation import Preparation
from match_server.services.model_change.state import (
    ChangeState,
    change_of,
    counterpart_count,
    locked,
    state_of,
    without_counterpart,
)
from match_server.services.recognition.context import Recognition
from match_server.services.storage.files import FileStore
from shared.errors import Conflict

_TARGETS = ("target_fpir", "false_alarms_per_day")
_MEASURED = (*SETS_THE_POINT, "traffic", "least_traffic")  # by similarities of the old model

_MOVED = (
    "number",
    "id",
    "collection_number",
    "person_number",
    "image_id",
    "model_id",
    "vector",
    "vector_hash",
    "data_key",
    "quality",
    "created_at",
)


class NotPrepared(Conflict):
    """Templates were enrolled after the other model's were made."""


class Reembedding:
    """Changes the models of collections."""

    def __init__(self, recognition: Recognition, files: FileStore) -> None:
        self._database = recognition.database
        self._references = recognition.points.references
        self._clock = recognition.clock
        self._preparation = Preparation(recognition, files)

    def prepare(
        self, name: str, models: FaceEngine, report: Callable[[int, int], None] = lambda *_: None
    ) -> ChangeState:
        """Make the other model's templates; see `Preparation.run`."""
        self._preparation.run(name, models, report)
        return self.state(name)

    def state(self, name: str) -> ChangeState:
        """Raises NotFound when no change of model is under way."""
        with self._database.read() as session:
            return state_of(session, name)

    def switch(
        self, name: str, threshold: float | None = None, *, accept_left: bool = False
    ) -> ChangeState:
        """Use the prepared model from now on, with this threshold; the former one is dropped.

        Without a threshold, a target FPIR or number of false alarms stays as it is, derived from
        the reference calibration of the new model; a policy without a target, or a model without a
        reference, gets the policy of a new collection. Raises NotFound when no model is prepared,
        NotPrepared when templates were enrolled since (prepare again), Conflict when templates
        without a counterpart were not accepted.
        """
        with self._database.write() as session:
            collection = locked(session, name)
            change = change_of(session, collection)
            if change.switched:
                raise Conflict(
                    f"{name!r} uses {collection.model_id!r} already: finish or roll back"
                )
            policy = stored_policy(self._policy_after(collection, change.model_id, threshold))
            self._exchange(session, collection, change, policy.model_dump(mode="json"), accept_left)
        return self.state(name)

    def _policy_after(self, collection: Collection, model_id: str, threshold: float | None) -> Json:
        kept = {name: value for name, value in collection.policy.items() if name not in _MEASURED}
        if threshold is not None:
            return {**kept, "threshold": threshold}
        targets = {name: collection.policy.get(name) for name in _TARGETS}
        if any(targets.values()) and self._references.calibration(model_id) is not None:
            return {**kept, **targets}
        return {**kept, **self._references.default_policy(model_id)}

    def rollback(self, name: str, *, accept_left: bool = False) -> ChangeState:
        """Use the model and the policy from before the switch again; the new one stays prepared.

        Raises Conflict as `switch` does. Templates that were enrolled since first need a
        counterpart of the old model: `prepare` with it.
        """
        with self._database.write() as session:
            collection = locked(session, name)
            change = change_of(session, collection)
            if not change.switched:
                raise Conflict(f"{name!r} still uses {collection.model_id!r}: there is no way back")
            self._exchange(session, collection, change, change.policy, accept_left)
        return self.state(name)

    def finish(self, name: str) -> int:
        """Delete the templates of the model that is not in use, and return their count.

        After a switch this makes it final; before it, it drops the prepared templates.
        """
        with self._database.write() as session:
            collection = collection_named(session, name)
            change_of(session, collection)
            spares = SpareTemplate.collection_number == collection.number
            count = count_of(session, select(func.count()).where(spares))
            session.execute(delete(SpareTemplate).where(spares))
            for table in (ModelChange, Unembedded):
                session.execute(delete(table).where(table.collection_number == collection.number))
            now = self._clock.now()
            details: dict[str, Any] = {"templates": count}
            note(
                session, Note("model_change_finished", now, name, None, collection.number, details)
            )
            return count

    def _exchange(
        self,
        session: Session,
        collection: Collection,
        change: ModelChange,
        policy: Json,
        accept_left: bool,
    ) -> None:
        """Exchange the templates of both models, and with them the models and policies."""
        now = self._clock.now()
        details: dict[str, Any] = {"from": collection.model_id, "to": change.model_id}
        record(session, collection.number, "model_changed", collection.name, now, details=details)
        new = count_of(
            session, select(func.count()).where(without_counterpart(collection, change.model_id))
        )
        if new:
            raise NotPrepared(
                f"{new} templates of {collection.name!r} have no counterpart of "
                f"{change.model_id!r} yet: prepare once more",
                templates=new,
            )
        of_collection = Template.collection_number == collection.number
        whole = count_of(session, select(func.count()).where(of_collection))
        left = whole - count_of(session, counterpart_count(collection, change.model_id))
        if left and not accept_left:
            raise Conflict(
                f"{left} templates of {collection.name!r} cannot be made with "
                f"{change.model_id!r}, so their persons may not be found "
                "any more; see who they are, then accept it",
                templates=left,
            )
        other = (SpareTemplate.collection_number == collection.number) & (
            SpareTemplate.model_id == change.model_id
        )
        _move(session, Template, SpareTemplate, of_collection)
        count = _move(session, SpareTemplate, Template, other)
        change.model_id, collection.model_id = collection.model_id, change.model_id
        change.dimension, collection.dimension = collection.dimension, change.dimension
        change.policy, collection.policy = collection.policy, policy
        change.switched = not change.switched
        collection.generation += 1
        collection.template_count = count
        session.flush()


def _move(
    session: Session,
    source: type[Template] | type[SpareTemplate],
    target: type[Template] | type[SpareTemplate],
    which: ColumnElement[bool],
) -> int:
    """Move rows from one table to the other within the database, and return their count."""
    rows = select(*(source.__table__.c[name] for name in _MOVED)).where(which)
    session.execute(insert(target.__table__).from_select(_MOVED, rows))  # type: ignore[arg-type]
    gone = session.connection().execute(delete(source.__table__).where(which))  # type: ignore[arg-type]
    return gone.rowcount
