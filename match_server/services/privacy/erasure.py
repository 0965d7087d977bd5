"""Erasing persons: everything that names them, everywhere, with a certificate of it.

The rows go in one transaction: whoever reads after it finds nothing, and the feed tells every
gallery which templates went. What cannot be in that transaction follows: files, segments of the
galleries, the database's own log, the galleries on boxes. The certificate is `pending` until all
of these have been seen to be done.
"""

import contextlib
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial

from pydantic import JsonValue
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from match_server.db.database import Database
from match_server.db.tables import (
    AuditEntry,
    Collection,
    Erasure,
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
    TrackTemplate,
)
from match_server.schemas.audit import (
    Anchor,
    Certificate,
    DeclaredBackup,
    ErasedThings,
    ErasureQuery,
    ErasureView,
    HashedThing,
    Waiting,
)
from match_server.schemas.base import Page
from match_server.schemas.persons import PersonErased
from match_server.services.audit.chain import Note, canonical, current_actor, note, sha256_hex
from match_server.services.audit.reader import ISSUED
from match_server.services.change_feed import next_number, record
from match_server.services.devices.followers import followers_behind
from match_server.services.enrollment.references import remove_templates
from match_server.services.galleries.galleries import Galleries
from match_server.services.lookups import (
    batches,
    collection_named,
    count_of,
    numbers_of,
    person_named,
)
from match_server.services.paging import page_of
from match_server.services.privacy.erasure_journal import Erased, ErasureJournal
from match_server.services.storage.files import FileStore
from shared.clock import Clock
from shared.errors import NotFound, Unavailable
from shared.ids import new_id

log = logging.getLogger(__name__)

_LIMITS = [
    "Exports, answers that clients have kept, and events that were delivered to webhooks or over "
    "MQTT are out of reach of this server.",
    "Deleted files are not overwritten: what is left of them on a disk is that disk's matter.",
    "Worker processes let the templates go from memory before their next search; so does another "
    "server on the same database, which rewrites its segment files within a minute of that.",
]
_LIMITS_POSTGRESQL = [
    "PostgreSQL keeps deleted rows in its files until VACUUM and reuse of the room, and in its "
    "write-ahead log and the archive of that.",
]
_AT_ONCE = 100  # certificates that are looked at in one round


class Erasures:
    """Erases persons and keeps the certificates."""

    def __init__(
        self,
        database: Database,
        files: FileStore,
        galleries: Galleries,
        clock: Clock,
        backups: Mapping[str, float],
        journal: ErasureJournal,
    ) -> None:
        """`backups` are the owner's: name, and the days that each is kept."""
        self._database = database
        self._files = files
        self._galleries = galleries
        self._clock = clock
        self._backups = backups
        self._journal = journal

    def erase(self, collection: str, person_id: str) -> PersonErased:
        """Erase a person with images, templates, thumbnails and the name in events.

        The files follow; a process that dies in between leaves a note by which the next one
        deletes them. Raises NotFound.
        """
        now = self._clock.now()
        with self._database.write() as session:
            owner = collection_named(session, collection)
            person = person_named(session, owner, person_id)
            answer = self._erase(session, owner, person, now)
        try:
            self._journal.add(
                Erased(
                    erasure=answer.erasure,
                    person=person_id,
                    collection=owner.number,
                    collection_created_at=owner.created_at,
                    at=now,
                )
            )
        except Unavailable as error:  # `settle` tries again, and completes nothing before
            log.error("an erasure is not noted beside the database", extra={"why": error.message})
        return answer.model_copy(update={"pending": self._files.sweep()})

    def repeat(self) -> int:
        """Erase those again whom an older database brought back; answers how many they were.

        Where it is an older one, whoever follows the change feed begins anew.
        """
        returned = self._journal.returned()
        if returned or self._journal.is_ahead():
            log.warning(
                "the database is an older one than this server had before",
                extra={"erased_persons_in_it": len(returned)},
            )
            self._journal.restart_followers()
        for collection, person in returned:
            with contextlib.suppress(NotFound):  # another process was quicker
                self.erase(collection, person)
        return len(returned)

    def page(self, query: ErasureQuery) -> Page[ErasureView]:
        """Certificates, newest first."""
        wanted = select(Erasure)
        if query.person is not None:
            wanted = wanted.where(Erasure.person == query.person)
        if query.collection is not None:
            wanted = wanted.where(Erasure.collection_number.in_(numbers_of(query.collection)))
        if query.state is not None:
            done = Erasure.completed_at.is_not(None)
            wanted = wanted.where(done if query.state == "complete" else ~done)
        with self._database.read() as session:
            newest_first = Erasure.at.desc(), Erasure.id.desc()
            views = partial(_views, session)
            return page_of(session, wanted, query, *newest_first, views=views)

    def get(self, erasure_id: str) -> ErasureView:
        with self._database.read() as session:
            row = session.get(Erasure, erasure_id)
            if row is None:
                raise NotFound(f"there is no certificate of erasure {erasure_id!r}")
            return _views(session, [row])[0]

    def settle(self) -> int:
        """Do what pending erasures wait for, and complete those that wait no longer.

        Answers how many are still pending.
        """
        with self._database.read() as session:
            oldest = select(Erasure).where(Erasure.completed_at.is_(None)).order_by(Erasure.at)
            pending = session.scalars(oldest.limit(_AT_ONCE)).all()
        if not pending:
            return 0
        self._journal.keep_up()
        self._files.sweep()
        collections = {one.collection_number for one in pending}
        clean = {number: self._galleries.scrub(number) for number in collections}
        database_clean = self._database.shrink_log()
        left = 0
        for erasure in pending:
            waiting = self._waiting(erasure, clean[erasure.collection_number], database_clean)
            left += bool(waiting)
            found = [one.model_dump(mode="json") for one in waiting]
            if found == erasure.waiting and found:
                continue
            with self._database.write() as session:
                row = session.get_one(Erasure, erasure.id)
                row.waiting = found
                if not found and row.completed_at is None:
                    now = row.completed_at = self._clock.now()
                    about = row.id, row.person, row.collection_number
                    note(session, Note("erasure_completed", now, *about))
        return left

    def _waiting(self, erasure: Erasure, segments: bool, database: bool) -> list[Waiting]:
        """Who may still hold something of the person."""
        waiting: list[Waiting] = []
        with self._database.read() as session:
            files = self._files.left(session, erasure.files)
            behind = followers_behind(session, erasure.collection_number, erasure.change_seq)
        for folder, count in sorted(files.items(), key=lambda item: item[0] or ""):
            what = f"{count} files could not be deleted yet: {_where(folder)}"
            waiting.append(Waiting(who="files", name=folder or None, what=what))
        if not segments:
            waiting.append(Waiting(who="segments", what="files of the gallery are to be rewritten"))
        if not database:
            what = "the database's write-ahead log could not be emptied: somebody is reading"
            waiting.append(Waiting(who="database", what=what))
        now = self._clock.now()
        for box in behind:
            if box.forgets_at is not None and box.forgets_at <= now:
                continue  # it has been away for so long that it has wiped its gallery by itself
            what = f"has followed the changes to {box.seq}; the erasure is {erasure.change_seq}"
            waiting.append(Waiting(who="device", name=box.device, what=what))
        return waiting

    def _erase(
        self, session: Session, owner: Collection, person: Person, now: datetime
    ) -> PersonErased:
        mine = Image.person_number == person.number
        images = session.scalars(select(Image).where(mine).order_by(Image.id)).all()
        kept = [(image.file, image.storage_number) for image in images]
        self._files.doom(session, kept)
        removed = _removed(session, person, images)
        events, snapshots = _forget_in_events(session, person)
        self._files.doom_snapshots(session, snapshots)
        # A short-lived few, of whom nobody knows whom they show: those of the collection go.
        session.execute(
            delete(TrackTemplate).where(TrackTemplate.collection_number == owner.number)
        )
        which = Template.person_number == person.number
        remove_templates(session, owner, which, person.id, self._clock)
        session.execute(delete(Person).where(Person.number == person.number))
        owner.person_count = Collection.person_count - 1
        seq = record(session, owner.number, "person_erased", person.id, now)
        removed = removed.model_copy(update={"events": events, "snapshots": len(snapshots)})
        files = [name for name, _ in kept if name is not None] + snapshots
        erasure_id = self._certify(session, owner, person.id, seq, removed, files, now)
        return PersonErased(
            seq=seq,
            person=person.id,
            groups=removed.groups,
            templates=len(removed.templates),
            images=len(removed.images),
            events=events,
            snapshots=len(snapshots),
            erasure=erasure_id,
        )

    def _certify(
        self,
        session: Session,
        owner: Collection,
        person_id: str,
        seq: int,
        removed: ErasedThings,
        files: list[str],
        now: datetime,
    ) -> str:
        """Issue the certificate; answers its id."""
        actor = current_actor()
        certificate = Certificate(
            id=new_id(),
            at=now,
            actor=actor.who,
            role=actor.role,
            request_id=actor.request_id,
            person=person_id,
            collection_number=owner.number,
            seq=seq,
            removed=removed,
            backups=[
                DeclaredBackup(name=name, until=now + timedelta(days=days))
                for name, days in sorted(self._backups.items())
            ],
            limits=_LIMITS if self._database.is_sqlite else [*_LIMITS, *_LIMITS_POSTGRESQL],
        )
        document = certificate.model_dump(mode="json")
        row = Erasure(
            id=certificate.id,
            person=person_id,
            collection_number=owner.number,
            at=now,
            change_seq=seq,
            certificate=document,
            files=files,
            waiting=[],
        )
        session.add(row)
        digest = sha256_hex(canonical(document))
        details: dict[str, JsonValue] = {"sha256": digest, "seq": seq}
        note(session, Note(ISSUED, now, row.id, person_id, owner.number, details))
        return row.id


def _where(folder: str | None) -> str:
    """Why a file that this machine looked for is not deleted."""
    if folder is None:
        return "their storage does not answer"
    if folder:
        return f"they lie in the folder {folder}, whose server deletes them when it runs"
    return (
        "an earlier version wrote them, and they are not on this machine; the server of the "
        "machine that has them deletes them when it runs"
    )


def _removed(session: Session, person: Person, images: Sequence[Image]) -> ErasedThings:
    """What goes with the person; events and snapshots are counted by whoever takes them."""
    number = person.number
    templates = [
        row
        for table in (Template, SpareTemplate)  # the other: of the model before or after this one
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
        templates=[HashedThing(id=one.id, sha256=sha256_hex(one.vector)) for one in templates],
        images=[HashedThing(id=one.id, sha256=one.sha256.hex()) for one in images],
        photos=sum(image.file is not None for image in images),
        snapshots=0,
        events=0,
        **counts,
    )


def _forget_in_events(session: Session, person: Person) -> tuple[int, list[str]]:
    """Take the person out of every event; answers events changed, and the thumbnails to delete.

    These are of events that name the person, here or by the box, and of ambiguous ones that the
    person leads.
    """
    number = person.number
    mine = EventCandidate.person_number == number
    listed = select(EventCandidate.event_id).where(mine)
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
        event.revision = next_number(session, "events")  # watchers forget the name as well
    session.flush()
    for ids in batches(without_template):
        session.execute(delete(EventTemplate).where(EventTemplate.event_id.in_(ids)))
    return len(events), snapshots


def _views(session: Session, rows: Sequence[Erasure]) -> list[ErasureView]:
    issued = select(AuditEntry).where(
        AuditEntry.action == ISSUED, AuditEntry.subject.in_([row.id for row in rows])
    )
    entries = {one.subject: one for one in session.scalars(issued)}
    return [_view(row, entries.get(row.id)) for row in rows]


def _view(row: Erasure, entry: AuditEntry | None) -> ErasureView:
    return ErasureView(
        state="pending" if row.completed_at is None else "complete",
        completed_at=row.completed_at,
        waiting=[Waiting.model_validate(one) for one in row.waiting],
        certificate=Certificate.model_validate(row.certificate),
        sha256=sha256_hex(canonical(row.certificate)),
        audit=None if entry is None else Anchor(number=entry.number, hash=entry.hash.hex()),
    )
