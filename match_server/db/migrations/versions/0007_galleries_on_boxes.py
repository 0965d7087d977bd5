"""What boxes hold and have acknowledged; what they decided by themselves"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "followers",
        sa.Column("device_number", NUMBER, nullable=False),
        sa.Column("collection_number", NUMBER, nullable=False),
        sa.Column("groups", sa.JSON(), nullable=False),
        sa.Column("names", sa.Boolean(), nullable=False),
        sa.Column("granted_at", TIME, nullable=False),
        sa.Column("withdrawn_at", TIME, nullable=True),
        sa.Column("seq", sa.BigInteger(), nullable=True),
        sa.Column("spoke_at", TIME, nullable=True),
        sa.Column("forgets_at", TIME, nullable=True),
        sa.Column("decided", sa.BigInteger(), nullable=False),
        sa.Column("disagreed", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device_number"],
            ["devices.number"],
            name=op.f("fk_followers_device_number"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["collection_number"],
            ["collections.number"],
            name=op.f("fk_followers_collection_number"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("device_number", "collection_number", name=op.f("pk_followers")),
    )
    op.create_index("ix_followers_collection_number", "followers", ["collection_number"])
    with op.batch_alter_table("events") as events:
        events.add_column(sa.Column("local_decision", sa.String(20), nullable=True))
        events.add_column(sa.Column("local_person_number", NUMBER, nullable=True))
        events.add_column(sa.Column("local_similarity", sa.Double(), nullable=True))
        events.create_foreign_key(
            op.f("fk_events_local_person_number"),
            "persons",
            ["local_person_number"],
            ["number"],
            ondelete="SET NULL",
        )
        events.create_index("ix_events_local_person_number", ["local_person_number"])


def downgrade() -> None:
    with op.batch_alter_table("events") as events:
        events.drop_index("ix_events_local_person_number")
        events.drop_constraint(op.f("fk_events_local_person_number"), type_="foreignkey")
        events.drop_column("local_similarity")
        events.drop_column("local_person_number")
        events.drop_column("local_decision")
    op.drop_table("followers")
