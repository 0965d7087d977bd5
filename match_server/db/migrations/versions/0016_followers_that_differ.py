"""Devices whose copy of a gallery differs from the database"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("followers", sa.Column("differs", sa.String(length=200), nullable=True))
    op.add_column("followers", sa.Column("renewed_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("followers", "renewed_at")
    op.drop_column("followers", "differs")
