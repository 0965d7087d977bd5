"""The rows that name a person: summary for the certificate, and removal from events."""

from collections.abc import Sequence

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from match_server.db.tables import (
    Event,
    EventCandidate,
    EventTemplate,
    Image,
    Membership,
    Person,
    PersonField,
    Probe,
    SpareTemplate,
    Template,
)
from match_server.schemas.audit import ErasedThings, HashedThing
from match_server.services.audit.chain import sha256_hex
from match_server.services.change_feed import next_number
from match_server.services.lookups import batches, count_of


def summary_of(session: Session, person: Person, images: Sequence[Image]) -> ErasedThings:
    """The rows that are deleted with a person. The caller counts events and snapshots."""
    number = person.number
    templates = [
        row
        for table in (Template, SpareTemplate)  # spare: of the previous or next model
        for row in session.execute(
            select(table.id, table.vector)
            .where(table.person_number == number)
            .order_by(table.number)
        )
    ]
    counts = {
        name: count_of(session, select(func.count()).where(column == number))
        for name, column in (
            ("candidates", EventCandidate.person_number),
            ("probes", Probe.person_number),
            ("groups", Membership.person_number),
            ("metadata_fields", PersonField.person_number),
        )
    }
    return ErasedThings(
        templates=[HashedThing(id=row.id, sha256=sha256_hex(row.vector)) for row in templates],
        images=[HashedThing(id=image.id, sha256=image.sha256.hex()) for image in images],
        photos=sum(image.file is not None for image in images),
        snapshots=0,
        events=0,
        **counts,
    )


def forget_in_events(session: Session, person: Person) -> tuple[int, list[str]]:
    """Remove a person from all events. Returns the number of events, and thumbnails to delete.

    Thumbnails are deleted of events that name the person (by decision of the server or of the
    device), and of ambiguous events with the person as first candidate.
    """
    number = person.number
    listed = select(EventCandidate.event_id).where(EventCandidate.person_number == number)
    leading = set(session.scalars(listed.where(EventCandidate.rank == 1)))
    events = session.scalars(
        select(Event).where(
            (Event.person_number == number)
            | (Event.local_person_number == number)
            | Event.id.in_(listed)
        )
    ).all()
    snapshots: list[str] = []
    without_template: list[str] = []
    for event in events:
        named = number in (event.person_number, event.local_person_number)
        if named or (event.decision == "ambiguous" and event.id in leading):
            if event.snapshot is not None:
                snapshots.append(event.snapshot)
            event.snapshot = event.data_key = None
            without_template.append(event.id)
        if event.person_number == number:
            event.person_number, event.person_erased = None, True
        if event.local_person_number == number:
            event.local_person_number = None
        event.revision = next_number(
            session, "events"
        )  # so that clients that follow events read it again
    session.flush()
    for ids in batches(without_template):
        session.execute(delete(EventTemplate).where(EventTemplate.event_id.in_(ids)))
    return len(events), snapshots
