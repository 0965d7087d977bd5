"""Another model for a collection: prepared beside the one in use, taken in one step, and back.

While new templates are made of the kept photos, searches go on with the old ones. The switch is one
transaction: the templates of both models change places, and with them the collection's model and
its policy. Until `finish` the old ones stay, so that the same step leads back.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, delete, exists, func, insert, select
from sqlalchemy.orm import Session

from match_server.db.database import Database
from match_server.db.tables import (
    Collection,
    Image,
    Json,
    ModelChange,
    Person,
    SpareTemplate,
    Storage,
    Template,
    Unembedded,
)
from match_server.schemas.collections import SETS_THE_POINT, stored_policy
from match_server.services.audit.chain import Note, note
from match_server.services.change_feed import record
from match_server.services.encryption.vault import Cipher, Vault
from match_server.services.lookups import collection_named, count_of
from match_server.services.recognition.detection import embedded
from match_server.services.recognition.face_engine import FaceEngine
from match_server.services.recognition.reference_calibrations import ReferenceCalibrations
from match_server.services.storage.files import FileStore
from models.types import Face
from shared.clock import Clock
from shared.errors import (
    Conflict,
    Damaged,
    InternalError,
    KeptElsewhere,
    MalformedInput,
    MusterError,
    NotFound,
    PackError,
    Unavailable,
)

log = logging.getLogger(__name__)

_AT_ONCE = 8  # photos whose templates are written in one transaction
_OVERLAP = 0.3  # of two boxes (intersection over union): less is another face

_WISHES = ("target_fpir", "false_alarms_per_day")
_MEASURED = (*SETS_THE_POINT, "traffic", "least_traffic")  # by similarities of the old model

Pairs = Select[*tuple[Any, ...]]

_MOVED = (
    "number",
    "id",
    "collection_number",
    "person_number",
    "image_id",
    "model_id",
    "vector",
    "data_key",
    "quality",
    "created_at",
)


@dataclass(frozen=True, slots=True)
class Left:
    """A template that the other model has no counterpart of, and why."""

    person: str
    template: str
    reason: str


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a change of model is."""

    collection: str
    model_id: str  # in use
    other_model_id: str  # prepared; after the switch: the one before
    switched: bool
    templates: int  # in use
    done: int  # that have a counterpart
    left: tuple[Left, ...]  # that will have none


class NotPrepared(Conflict):
    """Templates were enrolled since the other model's were made."""


class Reembedding:
    """Changes the models of collections."""

    def __init__(
        self,
        database: Database,
        vault: Vault,
        files: FileStore,
        clock: Clock,
        references: ReferenceCalibrations,
    ) -> None:
        self._references = references
        self._database = database
        self._vault = vault
        self._files = files
        self._clock = clock

    def prepare(
        self, name: str, models: FaceEngine, tell: Callable[[int, int], None] = lambda *_: None
    ) -> Standing:
        """Make templates with `models` of all kept photos that have none yet.

        What is interrupted goes on when it is called again; templates that are enrolled meanwhile
        are made too. `tell` hears (done, of how many). Raises Conflict when another model is being
        prepared, Unavailable when a storage does not answer.
        """
        owner = self._begin(name, models)
        after = 0
        while rows := self._missing(owner, models.model_id, after):
            made = [(row, self._embedded(owner, row, models)) for row in rows]
            self._keep(owner, models.model_id, made)
            after = rows[-1].number
            tell(*self._counts(owner, models.model_id))
        return self.standing(name)

    def standing(self, name: str) -> Standing:
        """Raises NotFound when no change of model is under way."""
        with self._database.read() as session:
            owner = collection_named(session, name)
            change = change_of(session, owner)
            left = session.execute(
                select(Person.id, Unembedded.template_id, Unembedded.reason)
                .join(Person, Person.number == Unembedded.person_number)
                .where(Unembedded.collection_number == owner.number)
                .order_by(Person.id, Unembedded.template_id)
            ).all()
            return Standing(
                owner.name,
                owner.model_id,
                change.model_id,
                change.switched,
                owner.template_count,
                count_of(session, _with_counterpart(owner, change.model_id)),
                tuple(Left(*row) for row in left),
            )

    def switch(
        self, name: str, threshold: float | None = None, *, accept_left: bool = False
    ) -> Standing:
        """Use the prepared model from now on, with this threshold: the old one means nothing to it.

        Without a threshold a wished FPIR, or number of false alarms, stays as it is, derived by
        the reference calibration of the new model; a collection that has none, or a model
        without a reference, gets the policy of a new collection. Raises NotFound when no model is
        prepared, NotPrepared when templates were enrolled since (prepare again), Conflict when
        some have no counterpart and that was not accepted.
        """
        with self._database.write() as session:
            owner = self._locked(session, name)
            change = change_of(session, owner)
            if change.switched:
                raise Conflict(f"{name!r} uses {owner.model_id!r} already: finish or roll back")
            policy = stored_policy(self._policy_after(owner, change.model_id, threshold))
            self._exchange(session, owner, change, policy.model_dump(mode="json"), accept_left)
        return self.standing(name)

    def _policy_after(self, owner: Collection, model_id: str, threshold: float | None) -> Json:
        kept = {name: value for name, value in owner.policy.items() if name not in _MEASURED}
        if threshold is not None:
            return {**kept, "threshold": threshold}
        wished = {name: owner.policy.get(name) for name in _WISHES}
        if any(wished.values()) and self._references.calibration(model_id) is not None:
            return {**kept, **wished}
        return {**kept, **self._references.default_policy(model_id)}

    def rollback(self, name: str, *, accept_left: bool = False) -> Standing:
        """Use the model and the policy from before the switch again; the new one stays prepared.

        Raises Conflict as `switch` does. What was enrolled since needs a template of the old model
        first: `prepare` with it.
        """
        with self._database.write() as session:
            owner = self._locked(session, name)
            change = change_of(session, owner)
            if not change.switched:
                raise Conflict(f"{name!r} still uses {owner.model_id!r}: there is no way back")
            self._exchange(session, owner, change, change.policy, accept_left)
        return self.standing(name)

    def finish(self, name: str) -> int:
        """Delete the templates of the model that is not in use; answers how many they were.

        After a switch that makes it final; before it, what was prepared is dropped.
        """
        with self._database.write() as session:
            owner = collection_named(session, name)
            change_of(session, owner)
            spares = SpareTemplate.collection_number == owner.number
            count = count_of(session, select(func.count()).where(spares))
            session.execute(delete(SpareTemplate).where(spares))
            for table in (ModelChange, Unembedded):
                session.execute(delete(table).where(table.collection_number == owner.number))
            now = self._clock.now()
            details: dict[str, Any] = {"templates": count}
            note(session, Note("model_change_finished", now, name, None, owner.number, details))
            return count

    def _begin(self, name: str, models: FaceEngine) -> Collection:
        with self._database.write() as session:
            owner = collection_named(session, name)
            if models.model_id == owner.model_id:
                raise MalformedInput(f"collection {name!r} uses {models.model_id!r} already")
            change = session.get(ModelChange, owner.number)
            if change is None:
                change = ModelChange(
                    collection_number=owner.number,
                    model_id=models.model_id,
                    dimension=models.dimension,
                    switched=False,
                    policy={},
                    created_at=self._clock.now(),
                )
                session.add(change)
            elif change.model_id != models.model_id:
                raise Conflict(
                    f"collection {name!r} is on its way between {owner.model_id!r} and "
                    f"{change.model_id!r}: finish that first"
                )
            # What could not be made before is tried again: photos may be back.
            mine = Unembedded.collection_number == owner.number
            session.execute(delete(Unembedded).where(mine))
            return owner

    def _missing(self, owner: Collection, model_id: str, after: int) -> Sequence[Any]:
        """Templates without a counterpart that nothing is known of yet, with their photos."""
        columns = select(
            Template.number, Template.id, Template.image_id, Image.file, Image.detection, Storage
        )
        wanted = (
            columns.outerjoin(Image, Image.id == Template.image_id)
            .outerjoin(Storage, Storage.number == Image.storage_number)
            .where(_unmade(owner, model_id), Template.number > after)
        )
        with self._database.read() as session:
            return session.execute(wanted.order_by(Template.number).limit(_AT_ONCE)).all()

    def _embedded(self, owner: Collection, row: Any, models: FaceEngine) -> Face | str:
        """The face that the template was made of, seen by other models; or why there is none."""
        if row.file is None:
            return "no_photo"
        try:
            with self._database.read() as session:
                cipher = self._vault.cipher(session, owner)
            photo = self._files.read(row.file, row.Storage, cipher=cipher)
            faces = models.analyze(photo)
        except NotFound:
            return "photo_missing"
        except KeptElsewhere:
            return "photo_elsewhere"
        except Damaged:
            return "photo_damaged"
        except (Unavailable, PackError):
            raise  # of no photo in particular
        except MusterError as error:
            return error.code
        except Exception:  # of a library that reads the photo: the others go on
            log.exception("Failed to read a photo", extra={"image": row.image_id})
            return InternalError.code
        box = row.detection["box"]
        best = max(faces, key=lambda face: _overlap(face.box.tolist(), box), default=None)
        if best is None or _overlap(best.box.tolist(), box) < _OVERLAP:
            return "no_face"
        return best

    def _keep(
        self, owner: Collection, model_id: str, made: Sequence[tuple[Any, Face | str]]
    ) -> None:
        """Write what was made of those templates that are still there, and still have none."""
        with self._database.write() as session:
            current = self._locked(session, owner.name)
            if current.generation != owner.generation:
                raise Conflict(f"the model of {owner.name!r} was changed meanwhile: start again")
            cipher = self._vault.cipher(session, owner)
            ids = [row.id for row, _ in made]
            there = select(Template).where(Template.id.in_(ids), _unmade(owner, model_id))
            templates = {one.id: one for one in session.scalars(there.with_for_update())}
            for row, face in made:
                template = templates.get(row.id)
                if template is None:  # erased, or another run was quicker
                    continue
                if isinstance(face, str):
                    session.add(
                        Unembedded(
                            collection_number=owner.number,
                            template_id=template.id,
                            person_number=template.person_number,
                            reason=face,
                        )
                    )
                else:
                    session.add(_spare(cipher, template, model_id, face))

    def _counts(self, owner: Collection, model_id: str) -> tuple[int, int]:
        with self._database.read() as session:
            known = count_of(session, _with_counterpart(owner, model_id)) + count_of(
                session,
                select(func.count()).where(Unembedded.collection_number == owner.number),
            )
            whole = select(func.count()).where(Template.collection_number == owner.number)
            return known, count_of(session, whole)

    @staticmethod
    def _locked(session: Session, name: str) -> Collection:
        """The collection, whose row nobody else writes until the end: no template comes or goes."""
        number = collection_named(session, name).number
        return session.scalars(
            select(Collection)
            .where(Collection.number == number)
            .with_for_update()
            .execution_options(populate_existing=True)
        ).one()

    def _exchange(
        self,
        session: Session,
        owner: Collection,
        change: ModelChange,
        policy: Json,
        accept_left: bool,
    ) -> None:
        """Let the templates of both models change places, and all that goes with them."""
        now = self._clock.now()
        details: dict[str, Any] = {"from": owner.model_id, "to": change.model_id}
        record(session, owner.number, "model_changed", owner.name, now, details=details)
        new = count_of(session, select(func.count()).where(_unmade(owner, change.model_id)))
        if new:
            raise NotPrepared(
                f"{new} templates of {owner.name!r} have no counterpart of {change.model_id!r} "
                "yet: prepare once more",
                templates=new,
            )
        mine = Template.collection_number == owner.number
        whole = count_of(session, select(func.count()).where(mine))
        left = whole - count_of(session, _with_counterpart(owner, change.model_id))
        if left and not accept_left:
            raise Conflict(
                f"{left} templates of {owner.name!r} cannot be made with {change.model_id!r}, so "
                "their persons may not be found any more; see who they are, then accept it",
                templates=left,
            )
        other = (SpareTemplate.collection_number == owner.number) & (
            SpareTemplate.model_id == change.model_id
        )
        _move(session, Template, SpareTemplate, mine)
        count = _move(session, SpareTemplate, Template, other)
        change.model_id, owner.model_id = owner.model_id, change.model_id
        change.dimension, owner.dimension = owner.dimension, change.dimension
        change.policy, owner.policy = owner.policy, policy
        change.switched = not change.switched
        owner.generation += 1
        owner.template_count = count
        session.flush()


def change_of(session: Session, owner: Collection) -> ModelChange:
    """Raises NotFound when the collection's model is not being changed."""
    change = session.get(ModelChange, owner.number)
    if change is None:
        raise NotFound(f"no change of model is under way in collection {owner.name!r}")
    return change


def _unmade(owner: Collection, model_id: str) -> ColumnElement[bool]:
    """Templates in use without a counterpart, and without a reason why there is none."""
    return (
        (Template.collection_number == owner.number)
        & ~exists().where(SpareTemplate.id == Template.id, SpareTemplate.model_id == model_id)
        & ~exists().where(
            Unembedded.collection_number == owner.number, Unembedded.template_id == Template.id
        )
    )


def both_models(owner: Collection, model_id: str) -> Pairs:
    """Templates in use, each with its counterpart."""
    return (
        select(Template, SpareTemplate)
        .join(SpareTemplate, SpareTemplate.id == Template.id)
        .where(Template.collection_number == owner.number, SpareTemplate.model_id == model_id)
    )


def _with_counterpart(owner: Collection, model_id: str) -> Pairs:
    return both_models(owner, model_id).with_only_columns(func.count())


def _spare(cipher: Cipher, template: Template, model_id: str, face: Face) -> SpareTemplate:
    vector = embedded(face).vector.astype("<f2").tobytes()
    return SpareTemplate(
        number=template.number,
        id=template.id,
        collection_number=template.collection_number,
        person_number=template.person_number,
        image_id=template.image_id,
        model_id=model_id,
        vector=cipher.seal_vector(template.id, model_id, vector),
        data_key=cipher.data_key,
        quality=face.quality.score,
        created_at=template.created_at,
    )


def _move(
    session: Session,
    source: type[Template] | type[SpareTemplate],
    target: type[Template] | type[SpareTemplate],
    which: ColumnElement[bool],
) -> int:
    """Move rows from one table to the other, within the database; answers how many."""
    rows = select(*(source.__table__.c[name] for name in _MOVED)).where(which)
    session.execute(insert(target.__table__).from_select(_MOVED, rows))  # type: ignore[arg-type]
    gone = session.connection().execute(delete(source.__table__).where(which))  # type: ignore[arg-type]
    return gone.rowcount


def _overlap(first: Sequence[float], second: Sequence[float]) -> float:
    """Intersection over union of two boxes x1 y1 x2 y2."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (_area(first) + _area(second) - shared)


def _area(box: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
