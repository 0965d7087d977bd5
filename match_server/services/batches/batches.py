"""Enrolls batches: each item gets a verdict, a bad picture fails no other, memory is bounded.

Consecutive pictures of one person are compared before the first is enrolled, so that a wrong
picture is refused in any position. Templates are written by the thousand, because a commit to the
disk costs far more than a row.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto

from match_server.schemas.batches import BatchLine, BatchQuery, BatchVerdict, TemplateLine, Verdict
from match_server.schemas.persons import Enrolled, Enrollment
from match_server.services.batches.bulk import BulkVectors, Resume, refusal
from match_server.services.enrollment.enrollment import Enroller, PersonKey, Prepared
from shared.errors import InternalError, ModelMismatch, MusterError

log = logging.getLogger(__name__)

_VECTORS = 2048  # written in one transaction: some 8 MB with all that belongs to them
_PICTURES = 32  # of one person that are compared with each other
_PICTURE_BYTES = 48_000_000  # of these together, unless it is one


@dataclass(frozen=True, slots=True)
class Item:
    """A line or picture to be enrolled, or the error why it cannot be read."""

    index: int
    file: str | None
    line: BatchLine | TemplateLine | MusterError


class Batches:
    """Enrolls batches of pictures and templates."""

    def __init__(self, enroller: Enroller, bulk: BulkVectors) -> None:
        self._enroller = enroller
        self._bulk = bulk

    def lines_done(self, collection: str, resume: Resume) -> int:
        """How many lines of this file were imported before."""
        return self._bulk.lines_done(collection, resume)

    def run(
        self,
        collection: str,
        items: Iterable[Item],
        options: BatchQuery,
        resume: Resume | None = None,
        *,
        admitted: Callable[[], None] = lambda: None,
    ) -> Iterator[Sequence[Verdict]]:
        """Yield the verdicts in the order of the items, those of one transaction together after it.

        `resume` is updated in the transactions of the templates that it counts. `admitted` is
        called before each write; it ends the batch by raising.
        """
        for kind, some in _runs(items):
            try:
                admitted()
            except MusterError as error:
                yield [refusal(item.index, item.file, error) for item in some]
                return
            if kind is _Kind.VECTORS:
                yield self._written(collection, some, resume)
            elif kind is _Kind.PICTURES:
                yield self._pictures(collection, some, options, admitted)
            else:
                yield [_refused(item) for item in some]

    def _written(
        self, collection: str, items: Sequence[Item], resume: Resume | None
    ) -> Sequence[Verdict]:
        """Write templates. After an unexpected error the halves are written, down to the row that
        causes it.
        """
        vectors = [
            (item.index, item.line) for item in items if not isinstance(item.line, MusterError)
        ]
        try:
            return self._bulk.add(collection, vectors, resume)
        except MusterError as error:  # the transaction was rolled back: none of them is stored
            return [refusal(place, line.file, error) for place, line in vectors]
        except Exception:
            if len(items) == 1:
                item = items[0]
                log.exception("Failed to enroll a template", extra={"index": item.index})
                return [refusal(item.index, item.file, InternalError())]
        half = len(items) // 2
        return [
            verdict
            for some in (items[:half], items[half:])
            for verdict in self._written(collection, some, resume)
        ]

    def _pictures(
        self,
        collection: str,
        items: Sequence[Item],
        options: BatchQuery,
        admitted: Callable[[], None],
    ) -> list[BatchVerdict]:
        """Enroll pictures of one person, compared together, so that an outlier is refused in any
        position."""
        verdicts: dict[int, BatchVerdict] = {}
        prepared: list[tuple[Item, Prepared]] = []
        for item in items:
            with _alone(item, verdicts):
                picture = self._prepared(collection, item, options)
                if isinstance(picture, Enrolled):
                    verdicts[item.index] = _verdict(item, picture)
                else:
                    prepared.append((item, picture))
        errors: Sequence[MusterError | None]
        try:
            errors = self._enroller.compared([picture for _, picture in prepared])
        except MusterError as error:
            errors = [error] * len(prepared)
        for (item, picture), unlike in zip(prepared, errors, strict=True):
            with _alone(item, verdicts):
                if unlike is not None:
                    raise unlike
                admitted()
                verdicts[item.index] = _verdict(item, self._stored(collection, picture))
        return [verdicts[item.index] for item in items]

    def _prepared(self, collection: str, item: Item, options: BatchQuery) -> Prepared | Enrolled:
        line = item.line
        if isinstance(line, MusterError):
            raise line
        if isinstance(line, TemplateLine):
            raise TypeError("a template is no picture")
        face = line.face if line.face is not None or line.box is not None else options.face
        request = Enrollment(
            image=line.image,
            store=options.store,
            storage=options.storage,
            face=face,
            box=line.box,
            force=options.force,
        )
        who = PersonKey(line.key, line.person is None, line.new_person())
        return self._enroller.prepare(collection, who, request)

    def _stored(self, collection: str, prepared: Prepared) -> Enrolled:
        try:
            return self._enroller.write(prepared)
        except ModelMismatch:  # the collection has just got new models
            return self._enroller.enroll(collection, prepared.who, prepared.request)


class _Kind(Enum):
    VECTORS = auto()
    PICTURES = auto()  # of one person
    UNREADABLE = auto()


_RunKey = tuple[_Kind, str, bool]
"""The kind of an item, and of a picture its person: the key, and whether it may be a name."""
_VECTOR: _RunKey = (_Kind.VECTORS, "", False)
_UNREADABLE: _RunKey = (_Kind.UNREADABLE, "", False)


def _runs(items: Iterable[Item]) -> Iterator[tuple[_Kind, list[Item]]]:
    """Group consecutive items that are enrolled together; memory is bounded."""
    run: list[Item] = []
    run_key, held = _UNREADABLE, 0
    for item in items:
        key, size = _of(item)
        most = _VECTORS if run_key is _VECTOR else _PICTURES
        if run and (key != run_key or len(run) >= most or held + size > _PICTURE_BYTES):
            yield run_key[0], run
            run, held = [], 0
        run_key = key
        run.append(item)
        held += size
        if key is _UNREADABLE:
            yield key[0], run
            run, held = [], 0
    if run:
        yield run_key[0], run


def _of(item: Item) -> tuple[_RunKey, int]:
    """What an item has in common with those it is enrolled with, and the bytes of its picture."""
    line = item.line
    if isinstance(line, MusterError):
        return _UNREADABLE, 0
    if line.image is None:
        return _VECTOR, 0
    return (_Kind.PICTURES, line.key, line.person is None), len(line.image)


@contextmanager
def _alone(item: Item, verdicts: dict[int, BatchVerdict]) -> Iterator[None]:
    """Turn an error into the verdict of this item."""
    try:
        yield
    except MusterError as error:
        verdicts[item.index] = refusal(item.index, item.file, error)
    except Exception:  # of a library that reads the picture: the others go on
        log.exception("Failed to enroll a picture", extra={"index": item.index})
        verdicts[item.index] = refusal(item.index, item.file, InternalError())


def _refused(item: Item) -> BatchVerdict:
    if not isinstance(item.line, MusterError):
        raise RuntimeError("a readable item cannot be refused")
    return refusal(item.index, item.file, item.line)


def _verdict(item: Item, made: Enrolled) -> BatchVerdict:
    detection = made.detection
    return BatchVerdict(
        index=item.index,
        file=item.file,
        status="duplicate" if made.duplicate else "accepted",
        person=made.person,
        image_id=made.image_id,
        template_id=made.template_id,
        quality=None if made.quality is None else round(made.quality.score, 4),
        faces=None if detection is None else detection.faces,
        face=None if detection is None else detection.face,
        seq=made.seq,
    )
