"""Collections: each pinned to one model, each with its own policy."""

from functools import partial

from pydantic import JsonValue, ValidationError
from sqlalchemy import Select, delete, func, select
from sqlalchemy.orm import Session

from match_server.db.tables import Collection, DataKey, Event, Image, Json, Person
from match_server.db.text_search import contains
from match_server.schemas.base import Page
from match_server.schemas.collections import (
    CollectionCreate,
    CollectionErased,
    CollectionPatch,
    CollectionQuery,
    CollectionView,
    CollectionWritten,
    Policy,
    stored_policy,
)
from match_server.services.change_feed import position, record
from match_server.services.collection_ref import collection_ref
from match_server.services.lookups import collection_named, count_of
from match_server.services.paging import each, page_of
from match_server.services.policy.operating_point_view import view_of
from match_server.services.recognition.context import Recognition
from match_server.services.storage.files import FileStore
from shared.errors import Conflict, MalformedInput

_BYTES_A_VALUE = 2  # float16


class Collections:
    """Creating, reading, changing and erasing collections."""

    def __init__(self, recognition: Recognition, files: FileStore) -> None:
        self._database = recognition.database
        self._engines = recognition.engines
        self._vault = recognition.vault
        self._points = recognition.points
        self._clock = recognition.clock
        self._files = files

    def create(self, request: CollectionCreate) -> CollectionWritten:
        """A new collection of this server's model. Conflict when the name is taken."""
        now = self._clock.now()
        with self._database.write() as session:
            self._require_free(session, request.name)
            model_id = self._engines.default.model_id
            row = Collection(
                name=request.name,
                model_id=model_id,
                dimension=self._engines.default.dimension,
                max_templates=request.max_templates,
                template_count=0,
                person_count=0,
                generation=0,
                encrypted=request.encrypted,
                meta=dict(request.metadata),
                policy=self._new_policy(request.policy, model_id),
                created_at=now,
            )
            session.add(row)
            session.flush()
            if request.encrypted:
                self._vault.add_keys(session, row, now)
            self._require_measurements(session, row)
            seq = record(session, row.number, "collection_created", row.name, now)
            return CollectionWritten(seq=seq, **dict(self._view(session, row)))

    def ensure(self, name: str) -> None:
        """Create the collection when it is missing."""
        with self._database.read() as session:
            if count_of(session, _count_named(name)):
                return
        self.create(CollectionCreate(name=name))

    def page(self, query: CollectionQuery) -> Page[CollectionView]:
        """Collections by name."""
        statement = select(Collection)
        if query.q is not None:
            statement = statement.where(contains(Collection.name, query.q))
        if query.model_id is not None:
            statement = statement.where(Collection.model_id == query.model_id)
        with self._database.read() as session:
            views = each(partial(self._view, session))
            return page_of(session, statement, query, Collection.name, views=views)

    def get(self, name: str) -> CollectionView:
        with self._database.read() as session:
            return self._view(session, collection_named(session, name))

    def change(self, name: str, patch: CollectionPatch) -> CollectionWritten:
        """Change the fields of the patch; of the policy, the settings that the patch names."""
        fields = patch.model_fields_set
        with self._database.write() as session:
            row = collection_named(session, name)
            if patch.name is not None and patch.name != row.name:
                self._require_free(session, patch.name)
                row.name = patch.name
            if "max_templates" in fields:
                if patch.max_templates is not None and patch.max_templates < row.template_count:
                    raise Conflict(f"the collection already holds {row.template_count} templates")
                row.max_templates = patch.max_templates
            if patch.metadata is not None:
                row.meta = dict(patch.metadata)
            if patch.policy is not None:
                row.policy = _checked(patch.policy.applied_to(row.policy))
                session.flush()
                self._require_measurements(session, row)
            now = self._clock.now()
            details: dict[str, JsonValue] = {"fields": [*sorted(fields)]}
            seq = record(session, row.number, "collection_updated", row.name, now, details=details)
            session.flush()
            return CollectionWritten(seq=seq, **dict(self._view(session, row)))

    def erase(self, name: str) -> CollectionErased:
        """Erase a collection with its persons, templates, photos, events and snapshots."""
        with self._database.write() as session:
            row = collection_named(session, name)
            photos = session.execute(
                select(Image.file, Image.storage_number)
                .join(Person)
                .where(Person.collection_number == row.number)
            ).all()
            snapshots = session.scalars(
                select(Event.snapshot).where(Event.collection_number == row.number)
            ).all()
            self._files.doom(session, [(photo.file, photo.storage_number) for photo in photos])
            erased = self._files.doom_snapshots(session, snapshots)
            session.execute(delete(Event).where(Event.collection_number == row.number))
            own_keys = DataKey.collection_number == row.number
            keys = count_of(session, select(func.count()).where(own_keys))
            now = self._clock.now()
            destroyed: dict[str, JsonValue] = {"data_keys": keys} if keys else {}
            seq = record(session, row.number, "collection_erased", row.name, now, details=destroyed)
            erased_collection = CollectionErased(
                seq=seq,
                name=row.name,
                persons=row.person_count,
                templates=row.template_count,
                images=len(photos),
                snapshots=erased,
                data_keys=keys,
            )
            session.execute(delete(Collection).where(Collection.number == row.number))
        return erased_collection.model_copy(update={"pending": self._files.sweep()})

    def position(self) -> int:
        """Where the change feed stands."""
        with self._database.read() as session:
            return position(session)

    def _new_policy(self, policy: Policy, model_id: str) -> Json:
        """The policy of a new collection, completed with the default operating point."""
        stored = policy.model_dump(mode="json")
        if policy.sets_the_point:
            return stored
        chosen = {name: stored[name] for name in policy.model_fields_set}
        return {**stored, **self._points.references.default_policy(model_id), **chosen}

    def _require_measurements(self, session: Session, row: Collection) -> None:
        """Raises Conflict when the policy needs a calibration or traffic that is not known.

        Measured traffic is kept with the policy as its least traffic.
        """
        point = self._points.require(collection_ref(session, row.name))
        view = view_of(point)
        measured = view.traffic if view.traffic_from == "measured" else None
        if point.policy.least_traffic is None and measured and point.policy.false_alarms_per_day:
            row.policy = {**row.policy, "least_traffic": measured}
            session.flush()

    def _view(self, session: Session, row: Collection) -> CollectionView:
        return CollectionView(
            name=row.name,
            model_id=row.model_id,
            dimension=row.dimension,
            template_bytes=row.dimension * _BYTES_A_VALUE,
            templates=row.template_count,
            persons=row.person_count,
            max_templates=row.max_templates,
            encrypted=row.encrypted,
            metadata=row.meta,
            policy=stored_policy(row.policy),
            operating_point=view_of(self._points.named(session, row.name)),
            created_at=row.created_at,
        )

    @staticmethod
    def _require_free(session: Session, name: str) -> None:
        if count_of(session, _count_named(name)):
            raise Conflict(f"there is already a collection {name!r}")


def _count_named(name: str) -> Select[int]:
    return select(func.count()).select_from(Collection).where(Collection.name == name)


def _checked(policy: Json) -> Json:
    """A changed policy, validated, as it is stored. Raises MalformedInput."""
    try:
        return stored_policy(policy).model_dump(mode="json")
    except ValidationError as error:
        raise MalformedInput(f"policy: {error.errors()[0]['msg']}") from None
