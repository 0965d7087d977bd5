"""Sightings across tracks; webhooks and their deliveries"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    # Columns without constraints: SQLite adds them in place. Creating `events` again there
    # would delete the rows that refer to it.
    op.add_column("events", sa.Column("shown_track_id", sa.String(length=36), nullable=True))
    op.add_column(
        "events", sa.Column("tracks", sa.Integer(), nullable=False, server_default=sa.text("1"))
    )
    op.add_column("events", sa.Column("merged_into", sa.String(length=36), nullable=True))
    op.create_index("ix_events_sighting", "events", ["person_number", "camera", "last_captured_at"])
    op.create_table(
        "event_tracks",
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("camera", sa.String(length=63), nullable=False),
        sa.Column("track_id", sa.String(length=36), nullable=False),
        sa.Column("event_id", sa.String(length=36), nullable=False),
        sa.Column("decision", sa.String(length=20), nullable=False),
        sa.Column("similarity", sa.Double(), nullable=True),
        sa.Column("quality_score", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["event_id"],
            ["events.id"],
            name=op.f("fk_event_tracks_event_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("track_id", "device", "camera", name=op.f("pk_event_tracks")),
    )
    op.create_index(op.f("ix_event_tracks_event_id"), "event_tracks", ["event_id"])
    op.execute(
        "INSERT INTO event_tracks "
        "(device, camera, track_id, event_id, decision, similarity, quality_score) "
        "SELECT device, camera, track_id, id, decision, similarity, quality_score FROM events"
    )
    _presence()
    _webhooks()


def _presence() -> None:
    op.create_table(
        "camera_views",
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("camera", sa.String(length=63), nullable=False),
        sa.Column("in_view", sa.Integer(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("heard_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("device", "camera", name=op.f("pk_camera_views")),
    )
    op.create_table(
        "tracks_in_view",
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("camera", sa.String(length=63), nullable=False),
        sa.Column("track_id", sa.String(length=36), nullable=False),
        sa.Column("began_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("device", "camera", "track_id", name=op.f("pk_tracks_in_view")),
    )


def _webhooks() -> None:
    op.create_table(
        "event_readers",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_event_readers")),
    )
    op.create_table(
        "webhooks",
        sa.Column("number", NUMBER, nullable=False),
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("url", sa.String(length=2000), nullable=False),
        sa.Column("secret", sa.LargeBinary(length=32), nullable=False),
        sa.Column("filters", sa.JSON(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("retry_at", TIME, nullable=True),
        sa.Column("failing_since", TIME, nullable=True),
        sa.Column("delivered_at", TIME, nullable=True),
        sa.Column("disabled_at", TIME, nullable=True),
        sa.Column("disabled_reason", sa.String(length=500), nullable=True),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_webhooks")),
        sa.UniqueConstraint("id", name=op.f("uq_webhooks_id")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "webhook_deliveries",
        sa.Column("number", NUMBER, nullable=False),
        sa.Column("webhook_number", NUMBER, nullable=False),
        sa.Column("event_id", sa.String(length=36), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("first_at", TIME, nullable=False),
        sa.Column("next_at", TIME, nullable=False),
        sa.Column("dead_at", TIME, nullable=True),
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.ForeignKeyConstraint(
            ["webhook_number"],
            ["webhooks.number"],
            name=op.f("fk_webhook_deliveries_webhook_number"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["event_id"],
            ["events.id"],
            name=op.f("fk_webhook_deliveries_event_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_webhook_deliveries")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_webhook_deliveries_event",
        "webhook_deliveries",
        ["webhook_number", "event_id"],
        unique=True,
    )
    op.create_index(op.f("ix_webhook_deliveries_event_id"), "webhook_deliveries", ["event_id"])


def downgrade() -> None:
    op.drop_index(op.f("ix_webhook_deliveries_event_id"), "webhook_deliveries")
    op.drop_index("ix_webhook_deliveries_event", "webhook_deliveries")
    op.drop_table("webhook_deliveries")
    op.drop_table("webhooks")
    op.drop_table("event_readers")
    op.drop_table("tracks_in_view")
    op.drop_table("camera_views")
    op.drop_index(op.f("ix_event_tracks_event_id"), "event_tracks")
    op.drop_table("event_tracks")
    op.drop_index("ix_events_sighting", "events")
    # What is part of another sighting has no place in the older shape.
    op.execute("DELETE FROM events WHERE merged_into IS NOT NULL")
    for column in ("merged_into", "tracks", "shown_track_id"):
        op.drop_column("events", column)
