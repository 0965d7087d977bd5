"""The state of a change of model, and the queries that both of its steps use."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, exists, func, select
from sqlalchemy.orm import Session

from match_server.db.tables import (
    Collection,
    ModelChange,
    Person,
    SpareTemplate,
    Template,
    Unembedded,
)
from match_server.services.lookups import collection_named, count_of
from shared.errors import NotFound

Pairs = Select[*tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class WithoutCounterpart:
    """A template without a counterpart of the other model, and the reason."""

    person: str
    template: str
    reason: str


@dataclass(frozen=True, slots=True)
class ChangeState:
    """How far a collection's change of model is."""

    collection: str
    model_id: str  # in use
    other_model_id: str  # prepared; after the switch: the former model
    switched: bool
    templates: int  # in use
    done: int  # that have a counterpart
    left: tuple[WithoutCounterpart, ...]  # that will have none


def state_of(session: Session, name: str) -> ChangeState:
    """The state of a collection's change of model. Raises NotFound when there is none."""
    collection = collection_named(session, name)
    change = change_of(session, collection)
    left = session.execute(
        select(Person.id, Unembedded.template_id, Unembedded.reason)
        .join(Person, Person.number == Unembedded.person_number)
        .where(Unembedded.collection_number == collection.number)
        .order_by(Person.id, Unembedded.template_id)
    ).all()
    return ChangeState(
        collection.name,
        collection.model_id,
        change.model_id,
        change.switched,
        collection.template_count,
        count_of(session, counterpart_count(collection, change.model_id)),
        tuple(WithoutCounterpart(*row) for row in left),
    )


def change_of(session: Session, collection: Collection) -> ModelChange:
    """Raises NotFound when the collection's model is not being changed."""
    change = session.get(ModelChange, collection.number)
    if change is None:
        raise NotFound(f"no change of model is under way in collection {collection.name!r}")
    return change


def locked(session: Session, name: str) -> Collection:
    """The collection, with its row locked until the end: no template is added or removed."""
    number = collection_named(session, name).number
    return session.scalars(
        select(Collection)
        .where(Collection.number == number)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one()


def without_counterpart(collection: Collection, model_id: str) -> ColumnElement[bool]:
    """Templates in use without a counterpart, and without a reason why there is none."""
    return (
        (Template.collection_number == collection.number)
        & ~exists().where(SpareTemplate.id == Template.id, SpareTemplate.model_id == model_id)
        & ~exists().where(
            Unembedded.collection_number == collection.number, Unembedded.template_id == Template.id
        )
    )


def both_models(collection: Collection, model_id: str) -> Pairs:
    """Templates in use, each with its counterpart."""
    return (
        select(Template, SpareTemplate)
        .join(SpareTemplate, SpareTemplate.id == Template.id)
        .where(Template.collection_number == collection.number, SpareTemplate.model_id == model_id)
    )


def counterpart_count(collection: Collection, model_id: str) -> Pairs:
    """The query that counts them."""
    return both_models(collection, model_id).with_only_columns(func.count())
