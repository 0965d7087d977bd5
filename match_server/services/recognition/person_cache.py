"""The persons of templates: read from the database, or from a cache that follows the change feed.

A search needs the name of each candidate's person. Reading them takes longer than the scan of a
small gallery, so each process keeps those that searches have found. The change feed says which of
them are out of date: a person who was erased or renamed, and a template that was removed.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Final, NamedTuple

from sqlalchemy import bindparam, select

from match_server.db.database import Database, Reader
from match_server.db.tables import Change, Person, Template
from match_server.services.collection_ref import CollectionRef
from match_server.services.revision import EPOCH, FeedPosition, feed_position
from shared.errors import CollectionUnavailable

MAX_BYTES: Final = 64 * 1024 * 1024
"""Of one process's cache: some 130,000 templates."""

_ENTRY_BYTES: Final = 480  # of an entry and its index, without its texts
_MOST_CHANGES: Final = 20_000  # that are followed one by one; beyond that the cache is emptied


class EnrolledPerson(NamedTuple):
    """The person of a template."""

    person_number: int
    collection_number: int
    person_id: str
    person_name: str
    template_id: str
    expires_at: datetime | None


PersonLookup = Callable[[Sequence[int]], Mapping[int, EnrolledPerson]]
"""Returns the persons of templates by the templates' numbers; erased templates are left out."""


def stored_persons(reader: Reader) -> PersonLookup:
    """A lookup that reads each time, for what a transaction sees."""
    return lambda numbers: _read(reader, numbers)


class PersonCache:
    """The persons that searches of this process have found. Thread-safe.

    A lookup returns what was committed before the search began, or a later state. When the cache is
    full, the entries that were added first are dropped.
    """

    def __init__(self, database: Database, max_bytes: int = MAX_BYTES) -> None:
        self._database = database
        self._max_bytes = max_bytes
        self._lock = threading.Lock()  # held while anything below changes
        self._entries: dict[int, EnrolledPerson] = {}  # by number of the template
        self._of_person: dict[tuple[int, str], tuple[int, ...]] = {}  # numbers of templates
        self._feed = FeedPosition("", 0)  # all changes up to this one are applied
        self._generations: dict[int, int] = {}  # of the collections that were searched
        self._drops = 0  # how often entries were dropped because they had changed
        self.bytes = 0
        self.hits = 0
        self.misses = 0

    def at(self, feed: FeedPosition, collection: CollectionRef) -> PersonLookup:
        """A lookup that knows every change up to `feed`, a position that was read.

        The generation of a collection changes with its model. In another epoch of the feed a number
        may be that of another template: lookups raise CollectionUnavailable if one has begun.
        """
        if self._generations.get(collection.number) != collection.generation:
            with self._lock:
                self._restart(feed)
                self._generations[collection.number] = collection.generation
        elif feed != self._feed:
            self._catch_up(feed)
        return partial(self._lookup, feed.epoch)

    def _lookup(self, epoch: str, numbers: Sequence[int]) -> Mapping[int, EnrolledPerson]:
        entries = self._entries  # before the epoch of the cache, which is set first
        if self._feed.epoch != epoch:
            raise _outdated()
        known = ((number, entries.get(number)) for number in numbers)
        persons = {number: entry for number, entry in known if entry is not None}
        missing = [number for number in numbers if number not in persons]
        self.hits += len(persons)  # counts may miss some when threads meet: they are only shown
        self.misses += len(missing)
        if missing:
            drops = self._drops  # before the database is read: what was read may change since
            read = _read(self._database, missing, epoch)
            self._add(read, drops)
            persons.update(read)
        return persons

    def _add(self, read: Mapping[int, EnrolledPerson], drops: int) -> None:
        with self._lock:
            if self._drops != drops:
                return  # some of it may be older than the changes that were applied meanwhile
            for number, entry in read.items():
                if number not in self._entries:
                    key = (entry.collection_number, entry.person_id)
                    self._of_person[key] = (*self._of_person.get(key, ()), number)
                    self._entries[number] = entry
                    self.bytes += _bytes_of(entry)
            while self.bytes > self._max_bytes:
                self._drop(next(iter(self._entries)))

    def _catch_up(self, feed: FeedPosition) -> None:
        """Drop the entries that changed after the last time."""
        with self._lock:
            (epoch, since), seq = self._feed, feed.seq
            if feed.epoch != epoch:
                if feed_position(self._database).epoch != feed.epoch:
                    raise _outdated()
                self._restart(feed)
                return
            if seq < since and feed_position(self._database).seq >= since:
                return  # another thread has read a later position
            if seq < since or seq - since > _MOST_CHANGES or not self._entries:
                self._restart(feed)  # the first: a standby that has not written yet was promoted
                return
            rows = self._database.execute(_CHANGES, {"since": since, "kinds": _KINDS})
            if any(kind in _OF_ALL for kind, *_ in rows):
                self._restart(feed)
                return
            self._drops += 1
            for kind, collection, subject, template in rows:
                if kind == "template_removed":
                    self._drop_all([template])
                else:
                    self._drop_all(self._of_person.get((collection, subject), ()))
            self._feed = feed

    def _restart(self, feed: FeedPosition) -> None:
        self._drops += 1
        self._feed = feed
        self._entries, self._of_person, self.bytes = {}, {}, 0

    def _drop_all(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            if number in self._entries:
                self._drop(number)

    def _drop(self, number: int) -> None:
        entry = self._entries.pop(number)
        self.bytes -= _bytes_of(entry)
        key = (entry.collection_number, entry.person_id)
        others = tuple(other for other in self._of_person[key] if other != number)
        if others:
            self._of_person[key] = others
        else:
            del self._of_person[key]


_ENROLLED = (
    select(
        Template.number,
        Person.number,
        Person.collection_number,
        Person.id,
        Person.name,
        Template.id,
        Person.expires_at,
        EPOCH,
    )
    .join(Person, Person.number == Template.person_number)
    .where(Template.number.in_(bindparam("numbers", expanding=True)))
)
_OF_ALL = frozenset({"model_changed", "collection_erased"})
_KINDS = ("template_removed", "person_updated", "person_erased", *sorted(_OF_ALL))
_CHANGES = (
    select(Change.kind, Change.collection_number, Change.subject, Change.template_number)
    .where(
        Change.seq > bindparam("since"),
        Change.kind.in_(bindparam("kinds", expanding=True)),
    )
    .order_by(Change.seq)
)


def _read(
    reader: Reader, numbers: Sequence[int], epoch: str | None = None
) -> dict[int, EnrolledPerson]:
    """The persons of templates. Raises CollectionUnavailable in another epoch than `epoch`."""
    persons = {}
    for number, *values, now in reader.execute(_ENROLLED, {"numbers": list(numbers)}):
        if epoch not in (None, now):
            raise _outdated()
        persons[number] = EnrolledPerson(*values)
    return persons


def _outdated() -> CollectionUnavailable:
    return CollectionUnavailable(
        "another database was put in place during the search (a failover, or a backup that was "
        "restored); search again"
    )


def _bytes_of(entry: EnrolledPerson) -> int:
    texts = len(entry.person_id) + len(entry.template_id) + 4 * len(entry.person_name)
    return _ENTRY_BYTES + texts
