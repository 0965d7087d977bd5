"""Delivering events to webhooks: by one process for all, nothing lost, nothing held up.

The order in which a webhook is told is that of the events' writes, as long as it answers. An event
that failed is set aside and overtaken by later ones, so one that the receiver cannot digest stops
nobody. Of one event an older state never comes after a newer: what is sent is the event as it is
when it is sent. While a receiver is away it gets one call after each pause, and the pauses grow.
"""

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from match_server.db.database import Database
from match_server.db.leader_lock import LeaderLock
from match_server.db.tables import Delivery, Json, Webhook
from match_server.services.encryption.secrets import Secrets
from match_server.services.metrics import Metrics
from match_server.services.sightings.event_feed import EventFeed, EventNotice
from match_server.services.webhooks.calls import Answer, Caller, Outcome
from shared.backoff import Backoff
from shared.clock import Clock
from shared.errors import Damaged, KeyMissing, MusterError

log = logging.getLogger(__name__)

_POLL_S = 0.05
_LOOK_AGAIN_S = 0.5  # for new webhooks, for retries that are due, for the leader lock
_BATCH = 50
_BATCH_S = 2.0  # progress is written at least so often while calls go well
_AT_ONCE = 16  # webhooks that are called at the same time


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long a receiver is waited for."""

    first_pause_s: float = 1.0
    longest_pause_s: float = 300.0
    event_s: float = 24 * 3600.0  # after its first call an event is a dead letter
    webhook_s: float = 72 * 3600.0  # without one success a webhook is disabled

    def pause(self, failures: int) -> timedelta:
        """Returns the pause after a number of failures in a row."""
        backoff = Backoff(self.first_pause_s, self.longest_pause_s)
        return timedelta(seconds=backoff.pause_s(failures))


@dataclass(slots=True)
class _Progress:
    """What the calls of one round came to, to be written in one transaction."""

    revision: int
    failures: int
    failing_since: datetime | None
    taken: list[str] = field(default_factory=list)  # events
    failed: list[tuple[EventNotice, Answer]] = field(default_factory=list)
    delivered_at: datetime | None = None
    retry_at: datetime | None = None
    gone: str | None = None


class Deliverer:
    """The thread that has webhooks called, in the process that holds the leader lock.

    Its queue is the events' table, so it is bounded by that alone; what failed is a row more in
    `webhook_deliveries`. Nothing is dropped: what cannot be delivered ends as a dead letter.
    """

    def __init__(
        self,
        database: Database,
        updates: EventFeed,
        caller: Caller,
        leader: LeaderLock,
        secrets: Secrets,
        clock: Clock,
        retry: RetryPolicy | None = None,
        *,
        metrics: Metrics,
    ) -> None:
        self._metrics = metrics
        self._database = database
        self._updates = updates
        self._caller = caller
        self._leader = leader
        self._secrets = secrets
        self._clock = clock
        self._retry = retry or RetryPolicy()
        self._stop = threading.Event()
        self._busy: set[int] = set()  # webhooks that are being called; this thread and the pool's
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Finish the calls under way and release the leader lock."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(self._caller.timeout_s + 5)

    def _run(self) -> None:
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="webhook") as pool:
            seen, looked_s = -1, -_LOOK_AGAIN_S
            while not self._stop.wait(_POLL_S):
                now_s = time.monotonic()
                try:
                    due = now_s - looked_s >= _LOOK_AGAIN_S
                    if due and not self._leader.acquire():
                        seen, looked_s = -1, now_s
                        self._stop.wait(_LOOK_AGAIN_S)
                        continue
                    newest = self._updates.newest() if seen >= 0 or due else -1
                    if newest < 0 or (newest == seen and not due):
                        continue
                    seen, looked_s = newest, now_s if due else looked_s
                    for number in self._with_work(newest):
                        pool.submit(self._call_all, number)
                except MusterError as error:
                    log.warning("webhooks wait", extra={"reason": error.message})
                    self._stop.wait(_LOOK_AGAIN_S)
        self._leader.release()

    def _with_work(self, newest: int) -> list[int]:
        """Webhooks that are to be called now and are not; they count as being called from here."""
        now = self._clock.now()
        waiting = select(Delivery.webhook_number).where(
            Delivery.dead_at.is_(None), Delivery.next_at <= now
        )
        wanted = select(Webhook.number).where(
            Webhook.disabled_at.is_(None),
            Webhook.retry_at.is_(None) | (Webhook.retry_at <= now),
            (Webhook.revision < newest) | Webhook.number.in_(waiting),
        )
        with self._database.read() as session:
            found = set(session.scalars(wanted))
        with self._lock:
            free = found - self._busy
            self._busy |= free
        return sorted(free)

    def _call_all(self, number: int) -> None:
        """Tell one webhook what it is to be told, until that is done or it fails."""
        try:
            while not self._stop.is_set() and self._call_some(number):
                pass
        except MusterError as error:
            log.warning("a webhook waits", extra={"reason": error.message})
        except Exception:
            log.exception("a webhook's round ended early; it is called again")
        finally:
            with self._lock:
                self._busy.discard(number)

    def _call_some(self, number: int) -> bool:
        """One round: first what is new, then what failed before. Whether another is to follow."""
        with self._database.read() as session:
            webhook = session.get(Webhook, number)
        if webhook is None or webhook.disabled_at is not None:
            return False
        progress = _Progress(webhook.revision, webhook.failures, webhook.failing_since)
        new, reached = self._updates.after(webhook.revision, _BATCH)
        started_s = time.monotonic()
        for told in new:
            if _wanted(webhook.filters, told):
                self._call(webhook, told, progress)
            progress.revision = told.event.revision
            late = time.monotonic() - started_s > _BATCH_S
            if late or progress.retry_at is not None or progress.gone or self._stop.is_set():
                break
        else:
            progress.revision = reached
            if not new:
                for told in self._waiting(number):
                    self._call(webhook, told, progress)
                    if progress.retry_at is not None or progress.gone:
                        break
        something = bool(progress.taken or progress.failed or progress.revision > webhook.revision)
        if something:
            self._write(number, progress)
        return something and progress.retry_at is None and progress.gone is None

    def _waiting(self, number: int) -> Sequence[EventNotice]:
        """What is to be tried again now, least tried first."""
        with self._database.read() as session:
            ids = session.scalars(
                select(Delivery.event_id)
                .where(
                    Delivery.webhook_number == number,
                    Delivery.dead_at.is_(None),
                    Delivery.next_at <= self._clock.now(),
                )
                .order_by(Delivery.attempts, Delivery.revision)
                .limit(_BATCH)
            ).all()
        events = self._updates.these(ids)
        return [events[one] for one in ids if one in events]

    def _call(self, webhook: Webhook, told: EventNotice, progress: _Progress) -> None:
        now = self._clock.now()
        try:
            secret = self._secrets.of_webhook(webhook)
        except (KeyMissing, Damaged) as error:
            answer = Answer(Outcome.LATER, f"its secret cannot be read: {error.message}")
        else:
            answer = self._caller.call(webhook.url, secret, told, now)
        self._metrics.delivery("webhook", answer.outcome.name.lower())
        if answer.outcome is Outcome.TAKEN:
            progress.taken.append(told.event.id)
            progress.delivered_at = self._clock.now()
        else:
            progress.failed.append((told, answer))
        if answer.outcome in (Outcome.TAKEN, Outcome.NEVER):  # it answers
            progress.failures, progress.failing_since = 0, None
            return
        progress.failures += 1
        progress.failing_since = progress.failing_since or now
        progress.retry_at = self._clock.now() + self._retry.pause(progress.failures)
        if answer.outcome is Outcome.GONE:
            progress.gone = answer.reason
        elif now - progress.failing_since > timedelta(seconds=self._retry.webhook_s):
            progress.gone = f"it has failed for too long; the last time: {answer.reason}"
        log.warning(
            "a webhook failed",
            extra={"webhook": webhook.id, "event": told.event.id, "reason": answer.reason},
        )

    def _write(self, number: int, progress: _Progress) -> None:
        now = self._clock.now()
        with self._database.write() as session:
            webhook = session.get(Webhook, number)
            if webhook is None:  # removed meanwhile
                return
            webhook.revision = max(webhook.revision, progress.revision)
            webhook.failures, webhook.failing_since = progress.failures, progress.failing_since
            webhook.retry_at = progress.retry_at
            webhook.delivered_at = progress.delivered_at or webhook.delivered_at
            if progress.gone is not None:
                webhook.disabled_at, webhook.disabled_reason = now, progress.gone
            mine = Delivery.webhook_number == number
            if progress.taken:
                session.execute(delete(Delivery).where(mine, Delivery.event_id.in_(progress.taken)))
            for told, answer in progress.failed:
                self._set_aside(session, number, told, answer, progress.retry_at or now)
        if progress.gone is not None:
            log.error(
                "a webhook is disabled", extra={"webhook": webhook.id, "reason": progress.gone}
            )

    def _set_aside(
        self, session: Session, number: int, told: EventNotice, answer: Answer, next_at: datetime
    ) -> None:
        """Keep an event that was not taken, for another call or as a dead letter."""
        now = self._clock.now()
        which = select(Delivery).where(
            Delivery.webhook_number == number, Delivery.event_id == told.event.id
        )
        row = session.scalars(which).one_or_none()
        if row is None:
            row = Delivery(webhook_number=number, event_id=told.event.id, attempts=0, first_at=now)
            session.add(row)
        row.attempts += 1
        row.revision = told.event.revision
        row.next_at = max(next_at, now + self._retry.pause(row.attempts))
        row.reason = answer.reason[:500]
        too_long = now - row.first_at > timedelta(seconds=self._retry.event_s)
        row.dead_at = now if answer.outcome is Outcome.NEVER or too_long else None


def _wanted(filters: Json, told: EventNotice) -> bool:
    """Whether a webhook with these filters is told of this event.

    Of an erasure everybody is told who may have been told of the event: it names nobody.
    """
    event = told.event
    if filters["decisions"] and event.decision not in filters["decisions"]:
        return False
    if filters["cameras"] and event.camera not in filters["cameras"]:
        return False
    if filters["collections"] and told.collection_number not in filters["collections"]:
        return False
    forget = event.person_erased or event.merged_into is not None
    return forget or not filters["groups"] or not told.groups.isdisjoint(filters["groups"])
