"""Delivering events to webhooks, by one process for all.

A webhook gets events in the order of their writes, as long as it accepts them. An event that failed
waits in a table while later events are sent, so one bad event does not block a webhook. An older
state of an event is never sent after a newer one, because the present state is sent. While a
receiver is not available it gets one call after each pause, and the pauses grow.
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
from match_server.services.webhooks.calls import Caller, Outcome, Result
from shared.backoff import Backoff
from shared.clock import Clock
from shared.errors import Damaged, KeyMissing, MusterError

log = logging.getLogger(__name__)

_POLL_S = 0.05
_LOOK_AGAIN_S = 0.5  # for new webhooks, for retries that are due, for the leader lock
_BATCH = 50
_BATCH_S = 2.0  # progress is written at least so often
_AT_ONCE = 16  # webhooks that are called at the same time


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The pauses after failed calls, and when to give up."""

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
    """The results of the calls of one round, which are written in one transaction."""

    revision: int
    failures: int
    failing_since: datetime | None
    taken: list[str] = field(default_factory=list)  # events
    failed: list[tuple[EventNotice, Result]] = field(default_factory=list)
    delivered_at: datetime | None = None
    retry_at: datetime | None = None
    gone: str | None = None


class Deliverer:
    """The thread that calls webhooks, in the process that holds the leader lock.

    Its queue is the table of events; a failed event is a row of `webhook_deliveries`. Nothing is
    dropped: an event that cannot be delivered becomes a dead letter.
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
        self._busy: set[int] = set()  # webhooks in calls; used by this thread and the pool
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Finish the present calls and release the leader lock."""
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
                    log.warning("Webhooks wait", extra={"reason": error.message})
                    self._stop.wait(_LOOK_AGAIN_S)
        self._leader.release()

    def _with_work(self, newest: int) -> list[int]:
        """Mark webhooks with work as busy. Returns them, without those that were busy before."""
        now = self._clock.now()
        waiting = select(Delivery.webhook_number).where(
            Delivery.dead_at.is_(None), Delivery.next_at <= now
        )
        webhooks = select(Webhook.number).where(
            Webhook.disabled_at.is_(None),
            Webhook.retry_at.is_(None) | (Webhook.retry_at <= now),
            (Webhook.revision < newest) | Webhook.number.in_(waiting),
        )
        with self._database.read() as session:
            numbers = set(session.scalars(webhooks))
        with self._lock:
            free = numbers - self._busy
            self._busy |= free
        return sorted(free)

    def _call_all(self, number: int) -> None:
        """Call one webhook until its queue is empty or a call fails."""
        try:
            while not self._stop.is_set() and self._call_some(number):
                pass
        except MusterError as error:
            log.warning("A webhook waits", extra={"reason": error.message})
        except Exception:
            log.exception("Calls of a webhook failed; it is called again")
        finally:
            with self._lock:
                self._busy.discard(number)

    def _call_some(self, number: int) -> bool:
        """One round: first new events, then failed ones. Returns whether there is more to do."""
        with self._database.read() as session:
            webhook = session.get(Webhook, number)
        if webhook is None or webhook.disabled_at is not None:
            return False
        progress = _Progress(webhook.revision, webhook.failures, webhook.failing_since)
        new, reached = self._updates.after(webhook.revision, _BATCH)
        started_s = time.monotonic()
        for notification in new:
            if _passes(webhook.filters, notification):
                self._call(webhook, notification, progress)
            progress.revision = notification.event.revision
            late = time.monotonic() - started_s > _BATCH_S
            if late or progress.retry_at is not None or progress.gone or self._stop.is_set():
                break
        else:
            progress.revision = reached
            if not new:
                for notification in self._waiting(number):
                    self._call(webhook, notification, progress)
                    if progress.retry_at is not None or progress.gone:
                        break
        changed = bool(progress.taken or progress.failed or progress.revision > webhook.revision)
        if changed:
            self._write(number, progress)
        return changed and progress.retry_at is None and progress.gone is None

    def _waiting(self, number: int) -> Sequence[EventNotice]:
        """Failed events that are due, those with the fewest attempts first."""
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
        return [events[key] for key in ids if key in events]

    def _call(self, webhook: Webhook, notification: EventNotice, progress: _Progress) -> None:
        now = self._clock.now()
        try:
            secret = self._secrets.of_webhook(webhook)
        except (KeyMissing, Damaged) as error:
            result = Result(Outcome.LATER, f"its secret cannot be decrypted: {error.message}")
        else:
            result = self._caller.call(webhook.url, secret, notification, now)
        self._metrics.delivery("webhook", result.outcome.name.lower())
        if result.outcome is Outcome.TAKEN:
            progress.taken.append(notification.event.id)
            progress.delivered_at = self._clock.now()
        else:
            progress.failed.append((notification, result))
        if result.outcome in (Outcome.TAKEN, Outcome.NEVER):  # it is available
            progress.failures, progress.failing_since = 0, None
            return
        progress.failures += 1
        progress.failing_since = progress.failing_since or now
        progress.retry_at = self._clock.now() + self._retry.pause(progress.failures)
        if result.outcome is Outcome.GONE:
            progress.gone = result.reason
        elif now - progress.failing_since > timedelta(seconds=self._retry.webhook_s):
            progress.gone = f"it has failed for too long; the last time: {result.reason}"
        log.warning(
            "A call of a webhook failed",
            extra={"webhook": webhook.id, "event": notification.event.id, "reason": result.reason},
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
            own = Delivery.webhook_number == number
            if progress.taken:
                session.execute(delete(Delivery).where(own, Delivery.event_id.in_(progress.taken)))
            for notification, result in progress.failed:
                self._store_failure(session, number, notification, result, progress.retry_at or now)
        if progress.gone is not None:
            log.error("Disabled a webhook", extra={"webhook": webhook.id, "reason": progress.gone})

    def _store_failure(
        self,
        session: Session,
        number: int,
        notification: EventNotice,
        result: Result,
        next_at: datetime,
    ) -> None:
        """Store an event that was not accepted, for another call or as a dead letter."""
        now = self._clock.now()
        which = select(Delivery).where(
            Delivery.webhook_number == number, Delivery.event_id == notification.event.id
        )
        row = session.scalars(which).one_or_none()
        if row is None:
            row = Delivery(
                webhook_number=number, event_id=notification.event.id, attempts=0, first_at=now
            )
            session.add(row)
        row.attempts += 1
        row.revision = notification.event.revision
        row.next_at = max(next_at, now + self._retry.pause(row.attempts))
        row.reason = result.reason[:500]
        too_long = now - row.first_at > timedelta(seconds=self._retry.event_s)
        row.dead_at = now if result.outcome is Outcome.NEVER or too_long else None


def _passes(filters: Json, notification: EventNotice) -> bool:
    """Whether the filters of a webhook let an event pass.

    The filter of groups lets erased and merged events pass: they name no person, and the webhook
    may have received them before.
    """
    event = notification.event
    if filters["decisions"] and event.decision not in filters["decisions"]:
        return False
    if filters["cameras"] and event.camera not in filters["cameras"]:
        return False
    if filters["collections"] and notification.collection_number not in filters["collections"]:
        return False
    forget = event.person_erased or event.merged_into is not None
    return forget or not filters["groups"] or not notification.groups.isdisjoint(filters["groups"])
