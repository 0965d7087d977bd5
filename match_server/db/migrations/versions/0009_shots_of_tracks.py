"""Probes of one track are fused: templates of tracks for a short while, shots of events"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("events", sa.Column("shots", sa.Integer(), server_default="1", nullable=False))
    op.create_table(
        "track_templates",
        sa.Column("track_id", sa.String(length=36), nullable=False),
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("camera", sa.String(length=63), nullable=False),
        sa.Column("probe_id", sa.String(length=36), nullable=False),
        sa.Column("collection_number", NUMBER, nullable=False),
        sa.Column("model_id", sa.String(length=80), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.Column("shots", sa.Integer(), nullable=False),
        sa.Column("sender_fuses", sa.Boolean(), nullable=False),
        sa.Column("captured_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("disputed", sa.Boolean(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_number"],
            ["collections.number"],
            name=op.f("fk_track_templates_collection_number"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("track_id", "device", "camera", name=op.f("pk_track_templates")),
    )
    op.create_index("ix_track_templates_received", "track_templates", ["received_at"])
    op.create_index("ix_track_templates_camera", "track_templates", ["camera", "received_at"])
    op.create_index(
        op.f("ix_track_templates_collection_number"), "track_templates", ["collection_number"]
    )


def downgrade() -> None:
    op.drop_table("track_templates")
    op.drop_column("events", "shots")
