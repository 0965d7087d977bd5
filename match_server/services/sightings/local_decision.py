"""The decisions that devices make themselves, stored with their sightings."""

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from match_server.db.tables import Collection, Device, Event, Follower, Person
from match_server.services.devices.followers import count_decision
from match_server.services.sightings.best_shot import ProbeOutcome
from shared.wire.messages import ProbeMessage

# A device must not learn ids of a gallery that it does not follow.
_HELD = (
    select(Collection.number)
    .join(Follower, Follower.collection_number == Collection.number)
    .join(Device, Device.number == Follower.device_number)
    .where(Collection.name == bindparam("collection"), Device.name == bindparam("device"))
)
_OF_ID = select(Person.number).where(
    Person.collection_number == bindparam("collection"), Person.id == bindparam("id")
)


def note_local_decision(
    session: Session, event: Event, message: ProbeMessage, outcome: ProbeOutcome, *, better: bool
) -> None:
    """Store the device's own decision: of the shown probe, else of the first probe with one."""
    local = message.local
    if local is None:
        return
    named = {"collection": local.collection, "device": message.device}
    held = session.execute(_HELD, named).one_or_none()
    person = (
        None
        if held is None or local.person is None
        else session.scalar(_OF_ID, {"collection": held.number, "id": local.person})
    )
    agrees = (outcome.decision, outcome.person_number) == (local.decision, person)
    if held is not None:
        count_decision(session, message.device, held.number, agrees=agrees)
    if better or event.local_decision is None:
        event.local_decision = local.decision
        event.local_person_number = person
        event.local_similarity = local.similarity
