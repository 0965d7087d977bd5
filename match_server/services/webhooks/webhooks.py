"""Administration of webhooks: creating, listing, enabling, removing; dead letters."""

from collections.abc import Sequence
from functools import partial

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from match_server.db.database import Database
from match_server.db.tables import Collection, Delivery, Event, Json, Webhook
from match_server.schemas.base import Page, Paging
from match_server.schemas.webhooks import (
    DeadLetter,
    Resend,
    Resent,
    WebhookCreate,
    WebhookCreated,
    WebhookFilters,
    WebhookView,
)
from match_server.services.audit.chain import Note, note
from match_server.services.change_feed import position
from match_server.services.encryption.secrets import Secrets
from match_server.services.lookups import collection_named, count_of
from match_server.services.paging import each, page_of
from match_server.services.webhooks.signing import new_secret, secret_text
from shared.clock import Clock
from shared.errors import NotFound
from shared.ids import new_id


class Webhooks:
    """Manages the webhooks of this server."""

    def __init__(self, database: Database, clock: Clock, secrets: Secrets) -> None:
        self._database = database
        self._secrets = secrets
        self._clock = clock

    def create(self, request: WebhookCreate) -> WebhookCreated:
        """Create a webhook for future events. Only this result holds its secret."""
        secret = new_secret()
        with self._database.write() as session:
            collections = [collection_named(session, name).number for name in request.collections]
            row = Webhook(
                id=new_id(),
                url=request.url,
                filters={
                    "decisions": list(request.decisions),
                    "cameras": list(request.cameras),
                    "collections": collections,  # by number: they may be renamed
                    "groups": list(request.groups),
                },
                created_at=self._clock.now(),
                revision=position(session, "events"),
                failures=0,
            )
            self._secrets.keep_webhook(row, secret)
            session.add(row)
            session.flush()
            note(session, Note("webhook_created", row.created_at, row.id))
            view = _view(session, row)
        return WebhookCreated(secret=secret_text(secret), **dict(view))

    def page(self, paging: Paging) -> Page[WebhookView]:
        with self._database.read() as session:
            views = each(partial(_view, session))
            return page_of(session, select(Webhook), paging, Webhook.number, views=views)

    def get(self, webhook_id: str) -> WebhookView:
        with self._database.read() as session:
            return _view(session, _named(session, webhook_id))

    def enable(self, webhook_id: str) -> WebhookView:
        """Call it again, at once, from the event where it stopped."""
        with self._database.write() as session:
            row = _named(session, webhook_id)
            row.disabled_at = row.disabled_reason = row.retry_at = row.failing_since = None
            row.failures = 0
            note(session, Note("webhook_enabled", self._clock.now(), row.id))
            session.flush()
            return _view(session, row)

    def remove(self, webhook_id: str) -> WebhookView:
        """Delete it with its queue."""
        with self._database.write() as session:
            row = _named(session, webhook_id)
            view = _view(session, row)
            note(session, Note("webhook_removed", self._clock.now(), row.id))
            session.delete(row)
        return view

    def dead_letters(self, webhook_id: str, paging: Paging) -> Page[DeadLetter]:
        """The events that it did not accept, oldest first."""
        with self._database.read() as session:
            row = _named(session, webhook_id)
            deliveries = select(Delivery).where(
                Delivery.webhook_number == row.number, Delivery.dead_at.is_not(None)
            )
            return page_of(session, deliveries, paging, Delivery.number, views=_dead_letters)

    def resend(self, webhook_id: str, request: Resend) -> Resent:
        """Put dead letters back into the queue. The present state of their events is sent."""
        now = self._clock.now()
        with self._database.write() as session:
            row = _named(session, webhook_id)
            dead = (Delivery.webhook_number == row.number) & Delivery.dead_at.is_not(None)
            if request.events is not None:
                dead &= Delivery.event_id.in_(request.events)
            count = count_of(session, select(func.count()).select_from(Delivery).where(dead))
            session.execute(
                update(Delivery)
                .where(dead)
                .values(dead_at=None, attempts=0, first_at=now, next_at=now)
            )
        return Resent(events=count)


def filters_of(session: Session, filters: Json) -> WebhookFilters:
    """The filters of a webhook, with the present names of its collections."""
    named = select(Collection.name).where(Collection.number.in_(filters["collections"]))
    collections = session.scalars(named.order_by(Collection.name)).all()
    return WebhookFilters.model_validate({**filters, "collections": collections})


def _named(session: Session, webhook_id: str) -> Webhook:
    row = session.scalars(select(Webhook).where(Webhook.id == webhook_id)).one_or_none()
    if row is None:
        raise NotFound(f"there is no webhook {webhook_id!r}")
    return row


def _dead_letters(rows: Sequence[Delivery]) -> list[DeadLetter]:
    return [
        DeadLetter(
            event=row.event_id,
            revision=row.revision,
            attempts=row.attempts,
            first_at=row.first_at,
            dead_at=row.dead_at,
            reason=row.reason,
        )
        for row in rows
        if row.dead_at is not None
    ]


def _view(session: Session, row: Webhook) -> WebhookView:
    own = select(func.count()).select_from(Delivery).where(Delivery.webhook_number == row.number)
    ahead = select(func.count()).select_from(Event).where(Event.revision > row.revision)
    again = count_of(session, own.where(Delivery.dead_at.is_(None)))
    return WebhookView(
        id=row.id,
        url=row.url,
        **dict(filters_of(session, row.filters)),
        created_at=row.created_at,
        enabled=row.disabled_at is None,
        disabled_reason=row.disabled_reason,
        waiting=count_of(session, ahead) + again,
        dead=count_of(session, own.where(Delivery.dead_at.is_not(None))),
        failures=row.failures,
        failing_since=row.failing_since,
        delivered_at=row.delivered_at,
    )
