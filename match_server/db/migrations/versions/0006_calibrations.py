"""Measured calibrations; what an event was decided by"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "calibrations",
        sa.Column("number", NUMBER, nullable=False),
        sa.Column("collection_number", NUMBER, nullable=False),
        sa.Column("model_id", sa.String(length=80), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("file", sa.JSON(), nullable=False),
        sa.Column("adopted_at", TIME, nullable=False),
        sa.Column("retired_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["collection_number"],
            ["collections.number"],
            name=op.f("fk_calibrations_collection_number"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_calibrations")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_calibrations_collection", "calibrations", ["collection_number", "number"])
    op.add_column("events", sa.Column("threshold", sa.Double(), nullable=True))
    op.add_column("event_candidates", sa.Column("match_probability", sa.Double(), nullable=True))


def downgrade() -> None:
    op.drop_column("event_candidates", "match_probability")
    op.drop_column("events", "threshold")
    op.drop_table("calibrations")
