"""Epochs of the change feed: they distinguish numbers that are used twice after a failover"""

import secrets
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    epochs = op.create_table(
        "epochs",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("begins_after", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("why", sa.String(length=20), nullable=False),
        sa.Column("incarnation", sa.String(length=80), nullable=True),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_epochs")),
        sa.UniqueConstraint("id", name=op.f("uq_epochs_id")),
    )
    counters = sa.table("counters", sa.column("name"), sa.column("value"))
    reached = sa.select(counters.c.value).where(counters.c.name == "changes")
    op.bulk_insert(
        epochs,
        [
            {
                "number": 1,
                "id": secrets.token_hex(8),
                "begins_after": op.get_bind().scalar(reached) or 0,
                "at": datetime.now(UTC),
                "why": "created",
                "incarnation": None,
            }
        ],
    )


def downgrade() -> None:
    op.drop_table("epochs")
