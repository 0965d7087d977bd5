"""Erasing persons: everything that names them, with a certificate.

One transaction deletes the rows, and the change feed names the deleted templates for all galleries.
The rest follows after the transaction: files, segments of galleries, the write-ahead log of the
database, galleries on devices. The certificate is `pending` until all of that is done.
"""

import contextlib
import logging
from collections.abc import Mapping
from datetime import datetime
from functools import partial

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from match_server.db.database import Database
from match_server.db.tables import (
    Collection,
    Erasure,
    Image,
    Person,
    Template,
    TrackTemplate,
)
from match_server.schemas.audit import (
    ErasureQuery,
    ErasureView,
    Waiting,
)
from match_server.schemas.base import Page
from match_server.schemas.persons import PersonErased
from match_server.services.audit.chain import (
    Note,
    note,
)
from match_server.services.change_feed import record
from match_server.services.devices.followers import followers_behind
from match_server.services.enrollment.references import remove_templates
from match_server.services.galleries.galleries import Galleries
from match_server.services.galleries.processes import (
    ProcessReports,
    is_silent,
    processes_behind,
)
from match_server.services.lookups import (
    collection_named,
    numbers_of,
    person_named,
)
from match_server.services.paging import page_of
from match_server.services.privacy.certificates import (
    LIMITS,
    LIMITS_POSTGRESQL,
    backups_until,
    issue,
    views_of,
)
from match_server.services.privacy.erased_rows import forget_in_events, summary_of
from match_server.services.privacy.erasure_journal import Erased, ErasureJournal
from match_server.services.revision import FeedPosition, feed_position
from match_server.services.storage.files import FileStore
from shared.clock import Clock, rfc3339
from shared.errors import NotFound, Unavailable

log = logging.getLogger(__name__)

_AT_ONCE = 100  # pending certificates that one run of `settle` checks


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
        reports: ProcessReports,
    ) -> None:
        """`backups` are declared in the settings: how many days each is kept, by name."""
        self._database = database
        self._files = files
        self._galleries = galleries
        self._clock = clock
        self._backups = backups
        self._journal = journal
        self._epoch: str | None = None  # in which erasures were repeated
        self._reports = reports

    def erase(self, collection: str, person_id: str) -> PersonErased:
        """Erase a person with images, templates, thumbnails and the name in events.

        Files are deleted after that. If the process ends before, another one deletes them. Raises
        NotFound.
        """
        now = self._clock.now()
        with self._database.write() as session:
            row = collection_named(session, collection)
            person = person_named(session, row, person_id)
            result = self._erase(session, row, person, now)
        try:
            self._journal.add(
                Erased(
                    erasure=result.erasure,
                    person=person_id,
                    collection=row.number,
                    collection_created_at=row.created_at,
                    at=now,
                )
            )
        except Unavailable as error:  # `settle` tries again before it completes an erasure
            log.error("Cannot write the erasure journal", extra={"why": error.message})
        return result.model_copy(update={"pending": self._files.sweep()})

    def repeat(self) -> int:
        """Erase again the persons that a restored database brought back. Returns their number.

        After a restore, an epoch of the change feed begins.
        """
        returned = self._journal.returned()
        if returned or self._journal.is_ahead():
            log.warning(
                "The database is older than the one that this server used before",
                extra={"erased_persons_in_it": len(returned)},
            )
            self._journal.note_restored()
        for collection, person in returned:
            with contextlib.suppress(NotFound):  # another process has erased the person
                self.erase(collection, person)
        return len(returned)

    def repeat_in_new_epoch(self) -> None:
        """As `repeat`, once in each epoch of the feed: a failover may have lost erasures."""
        epoch = feed_position(self._database).epoch
        if epoch != self._epoch:
            self.repeat()
            self._epoch = epoch

    def page(self, query: ErasureQuery) -> Page[ErasureView]:
        """Certificates, newest first."""
        rows = select(Erasure)
        if query.person is not None:
            rows = rows.where(Erasure.person == query.person)
        if query.collection is not None:
            rows = rows.where(Erasure.collection_number.in_(numbers_of(query.collection)))
        if query.state is not None:
            done = Erasure.completed_at.is_not(None)
            rows = rows.where(done if query.state == "complete" else ~done)
        with self._database.read() as session:
            newest_first = Erasure.at.desc(), Erasure.id.desc()
            views = partial(views_of, session)
            return page_of(session, rows, query, *newest_first, views=views)

    def get(self, erasure_id: str) -> ErasureView:
        with self._database.read() as session:
            row = session.get(Erasure, erasure_id)
            if row is None:
                raise NotFound(f"there is no certificate of erasure {erasure_id!r}")
            return views_of(session, [row])[0]

    def settle(self) -> int:
        """Continue pending erasures, and complete those that wait for nothing more.

        Returns how many are still pending.
        """
        with self._database.read() as session:
            oldest = select(Erasure).where(Erasure.completed_at.is_(None)).order_by(Erasure.at)
            pending = session.scalars(oldest.limit(_AT_ONCE)).all()
        if not pending:
            return 0
        self._journal.keep_up()
        self._files.sweep()
        collections = {erasure.collection_number for erasure in pending}
        clean = {number: self._galleries.scrub(number) for number in collections}
        if all(clean.values()) and len(pending) < _AT_ONCE:
            self._reports.files_are_clean()
        database_clean = self._database.shrink_log()
        left = 0
        for erasure in pending:
            waiting = self._waiting(erasure, clean[erasure.collection_number], database_clean)
            left += bool(waiting)
            left_over = [item.model_dump(mode="json") for item in waiting]
            if left_over == erasure.waiting and left_over:
                continue
            with self._database.write() as session:
                row = session.get_one(Erasure, erasure.id)
                row.waiting = left_over
                if not left_over and row.completed_at is None:
                    now = row.completed_at = self._clock.now()
                    about = row.id, row.person, row.collection_number
                    note(session, Note("erasure_completed", now, *about))
        return left

    def _waiting(self, erasure: Erasure, segments: bool, database: bool) -> list[Waiting]:
        """Parts of the system that may still hold data of the person."""
        waiting: list[Waiting] = []
        with self._database.read() as session:
            files = self._files.left(session, erasure.files)
            behind = followers_behind(session, erasure.collection_number, erasure.change_seq)
            servers = processes_behind(session, erasure.change_seq)
        for folder, count in sorted(files.items(), key=lambda item: item[0] or ""):
            what = f"{count} files could not be deleted yet: {_where(folder)}"
            waiting.append(Waiting(who="files", name=folder or None, what=what))
        if not segments:
            waiting.append(Waiting(who="segments", what="files of the gallery must be rewritten"))
        if not database:
            what = "the write-ahead log of the database cannot be emptied while it is read"
            waiting.append(Waiting(who="database", what=what))
        now = self._clock.now()
        for process in servers:
            what = f"a {process.kind} has followed the changes to {process.seq}; the erasure is "
            what += f"{erasure.change_seq}"
            if is_silent(process, now):
                what += (
                    f"; it reported last at {rfc3339(process.reported_at)}: the machine rewrites "
                    "its gallery files when its server starts"
                )
            waiting.append(Waiting(who="server", name=process.folder, what=what))
        for device in behind:
            if device.forgets_at is not None and device.forgets_at <= now:
                continue  # it was away for so long that it has deleted its gallery itself
            what = f"has followed the changes to {device.seq}; the erasure is {erasure.change_seq}"
            waiting.append(Waiting(who="device", name=device.device, what=what))
        return waiting

    def _erase(
        self, session: Session, collection: Collection, person: Person, now: datetime
    ) -> PersonErased:
        of_person = Image.person_number == person.number
        images = session.scalars(select(Image).where(of_person).order_by(Image.id)).all()
        kept = [(image.file, image.storage_number) for image in images]
        self._files.doom(session, kept)
        erased = summary_of(session, person, images)
        events, snapshots = forget_in_events(session, person)
        self._files.doom_snapshots(session, snapshots)
        # These live for seconds and name no person: all of the collection are deleted.
        session.execute(
            delete(TrackTemplate).where(TrackTemplate.collection_number == collection.number)
        )
        which = Template.person_number == person.number
        remove_templates(session, collection, which, person.id, self._clock)
        session.execute(delete(Person).where(Person.number == person.number))
        collection.person_count = Collection.person_count - 1
        seq = record(session, collection.number, "person_erased", person.id, now)
        erased = erased.model_copy(update={"events": events, "snapshots": len(snapshots)})
        files = [name for name, _ in kept if name is not None] + snapshots
        erasure_id = issue(
            session,
            collection,
            person.id,
            erased,
            feed=FeedPosition(feed_position(session).epoch, seq),
            files=files,
            backups=backups_until(self._backups, now),
            limits=LIMITS if self._database.is_sqlite else [*LIMITS, *LIMITS_POSTGRESQL],
            now=now,
        )
        return PersonErased(
            seq=seq,
            person=person.id,
            groups=erased.groups,
            templates=len(erased.templates),
            images=len(erased.images),
            events=events,
            snapshots=len(snapshots),
            erasure=erasure_id,
        )


def _where(folder: str | None) -> str:
    """Why this machine could not delete files of this folder."""
    if folder is None:
        return "their storage does not answer"
    if folder:
        return f"they lie in the folder {folder}, whose server deletes them when it runs"
    return (
        "an earlier version wrote them, and they are not on this machine; the server of the "
        "machine that has them deletes them when it runs"
    )
