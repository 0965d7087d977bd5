"""Enrolling many: one verdict each, one bad picture never fails the rest, memory stays bounded.

Pictures are enrolled one by one, as alone. Templates from elsewhere are gathered and written
by the thousand, because a commit to the disk costs far more than a row.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from match_server.schemas.batches import BatchLine, BatchQuery, BatchVerdict
from match_server.schemas.persons import Enrollment
from match_server.services.people.bulk import BulkVectors, Resume, VectorItem, refusal
from match_server.services.people.enrollment import Enroller, Named
from shared.errors import InternalError, MusterError

log = logging.getLogger(__name__)

_VECTORS = 2048  # written in one transaction: some 8 MB with all that belongs to them


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to be enrolled, or why it cannot even be read."""

    index: int
    file: str | None
    line: BatchLine | MusterError


class Batches:
    """Takes batches in."""

    def __init__(self, enroller: Enroller, bulk: BulkVectors) -> None:
        self._enroller = enroller
        self._bulk = bulk

    def run(
        self,
        collection: str,
        items: Iterable[Item],
        options: BatchQuery,
        resume: Resume | None = None,
    ) -> Iterator[BatchVerdict]:
        """The verdicts, in the order of the items, each when it is on the disk.

        `resume` is brought forward in the transactions of the vectors that it counts.
        """
        return chain.from_iterable(self.groups(collection, items, options, resume))

    def groups(
        self,
        collection: str,
        items: Iterable[Item],
        options: BatchQuery,
        resume: Resume | None = None,
    ) -> Iterator[Sequence[BatchVerdict]]:
        """As `run`, those together that came on the disk together."""
        waiting: list[VectorItem] = []
        for item in items:
            if isinstance(item.line, BatchLine) and item.line.template is not None:
                waiting.append((item.index, item.line))
                if len(waiting) < _VECTORS:
                    continue
            if waiting:
                yield self._written(collection, waiting, resume)
                waiting = []
            if isinstance(item.line, MusterError):
                yield [refusal(item.index, item.file, item.line)]
            elif item.line.image is not None:
                yield [self._picture(collection, item.index, item.file, item.line, options)]
        if waiting:
            yield self._written(collection, waiting, resume)

    def _written(
        self, collection: str, waiting: Sequence[VectorItem], resume: Resume | None
    ) -> Sequence[BatchVerdict]:
        """The verdicts. After an unexpected error the halves are written, down to the one row that
        causes it.
        """
        try:
            return self._bulk.add(collection, waiting, resume)
        except MusterError as error:  # the transaction is undone: none of them is there
            return [refusal(place, line.file, error) for place, line in waiting]
        except Exception:
            if len(waiting) == 1:
                place, line = waiting[0]
                log.exception("Failed to enroll a template", extra={"index": place})
                return [refusal(place, line.file, InternalError())]
        half = len(waiting) // 2
        return [
            verdict
            for some in (waiting[:half], waiting[half:])
            for verdict in self._written(collection, some, resume)
        ]

    def _picture(
        self, collection: str, index: int, file: str | None, line: BatchLine, options: BatchQuery
    ) -> BatchVerdict:
        wanted = Enrollment(
            image=line.image, store=options.store, storage=options.storage, force=options.force
        )
        try:
            made = self._enroller.enroll(
                collection, Named(line.key, line.person is None, line.new_person()), wanted
            )
        except MusterError as error:
            return refusal(index, file, error)
        except Exception:  # of a library that reads the picture: the others go on
            log.exception("Failed to enroll a picture", extra={"index": index})
            return refusal(index, file, InternalError())
        return BatchVerdict(
            index=index,
            file=file,
            status="duplicate" if made.duplicate else "accepted",
            person=made.person,
            image_id=made.image_id,
            template_id=made.template_id,
            quality=None if made.quality is None else round(made.quality.score, 4),
            seq=made.seq,
        )
