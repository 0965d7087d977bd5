"""Receivers of events: webhooks with their failed deliveries, and publishers over MQTT."""

from datetime import datetime

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from match_server.db.tables.base import Json, Name, Number, Table, UtcTime, Uuid


class EventReader(Table):
    """The last event that a publisher has sent: a number of the counter `events`."""

    __tablename__ = "event_readers"

    name: Mapped[str] = mapped_column(Name, primary_key=True)
    revision: Mapped[int] = mapped_column(BigInteger)


class Webhook(Table):
    """An address that receives events.

    The events above `revision` are its queue. They are in the database since the transaction that
    made them, so nothing can be lost between an event and its delivery.
    """

    __tablename__ = "webhooks"
    __table_args__ = ({"sqlite_autoincrement": True},)

    number: Mapped[int] = mapped_column(Number, primary_key=True)
    id: Mapped[str] = mapped_column(Uuid, unique=True)
    url: Mapped[str] = mapped_column(String(2000))
    secret: Mapped[bytes] = mapped_column(LargeBinary)  # encrypted, or plain without a master key
    master_id: Mapped[str | None] = mapped_column(
        String(16)
    )  # of the key that encrypts it; NULL: plain
    filters: Mapped[Json] = mapped_column(JSON)  # schemas.webhooks.WebhookFilters
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    revision: Mapped[int] = mapped_column(BigInteger)  # later events are to be delivered
    failures: Mapped[int] = mapped_column(Integer)  # since the last success
    retry_at: Mapped[datetime | None] = mapped_column(UtcTime)  # no call before
    failing_since: Mapped[datetime | None] = mapped_column(UtcTime)
    delivered_at: Mapped[datetime | None] = mapped_column(UtcTime)  # the last success
    disabled_at: Mapped[datetime | None] = mapped_column(UtcTime)
    disabled_reason: Mapped[str | None] = mapped_column(String(500))


class Delivery(Table):
    """An event that a webhook has not accepted yet, or never will (`dead_at`).

    It has no body: the body is made from the event when it is sent, so it never names a person who
    was erased meanwhile.
    """

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index("ix_webhook_deliveries_event", "webhook_number", "event_id", unique=True),
        {"sqlite_autoincrement": True},
    )

    number: Mapped[int] = mapped_column(Number, primary_key=True)
    webhook_number: Mapped[int] = mapped_column(ForeignKey("webhooks.number", ondelete="CASCADE"))
    event_id: Mapped[str] = mapped_column(ForeignKey("events.id", ondelete="CASCADE"), index=True)
    revision: Mapped[int] = mapped_column(BigInteger)
    attempts: Mapped[int] = mapped_column(Integer)
    first_at: Mapped[datetime] = mapped_column(UtcTime)  # of the first attempt
    next_at: Mapped[datetime] = mapped_column(UtcTime)
    dead_at: Mapped[datetime | None] = mapped_column(UtcTime)
    reason: Mapped[str] = mapped_column(String(500))  # of the last failure

    webhook: Mapped[Webhook] = relationship(lazy="raise")
