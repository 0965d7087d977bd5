"""A hash beside each template, so that it can be compared with the copies of followers"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


NOT_HASHED = sa.text("vector_hash IS NULL")


def upgrade() -> None:
    # Migrations have no keys of encrypted collections: the server hashes the rows that are there.
    op.add_column("templates", sa.Column("vector_hash", sa.BigInteger(), nullable=True))
    op.add_column("spare_templates", sa.Column("vector_hash", sa.BigInteger(), nullable=True))
    op.drop_index("ix_templates_collection", "templates")
    columns = ["collection_number", "number", "person_number", "vector_hash"]
    op.create_index("ix_templates_collection", "templates", columns)
    op.create_index(
        "ix_templates_not_hashed",
        "templates",
        ["collection_number", "number"],
        sqlite_where=NOT_HASHED,
        postgresql_where=NOT_HASHED,
    )


def downgrade() -> None:
    op.drop_index("ix_templates_not_hashed", "templates")
    op.drop_index("ix_templates_collection", "templates")
    op.create_index("ix_templates_collection", "templates", ["collection_number", "number"])
    op.drop_column("spare_templates", "vector_hash")
    op.drop_column("templates", "vector_hash")
