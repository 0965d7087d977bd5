"""Devices sign what they say over a broker"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("devices", sa.Column("message_key", sa.String(length=16), nullable=True))


def downgrade() -> None:
    op.drop_column("devices", "message_key")
