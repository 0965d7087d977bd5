"""Devices: configuration, health, ledger, enrollment codes"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _device(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["device_number"],
        ["devices.number"],
        name=op.f(f"fk_{table}_device_number"),
        ondelete="CASCADE",
    )


def upgrade() -> None:
    op.add_column("devices", sa.Column("status_at", TIME, nullable=True))
    op.add_column("devices", sa.Column("created_at", TIME, nullable=True))
    op.create_table(
        "device_gaps",
        sa.Column("device_number", NUMBER, nullable=False),
        sa.Column("first", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        _device("device_gaps"),
        sa.PrimaryKeyConstraint("device_number", "first", name=op.f("pk_device_gaps")),
    )
    op.create_table(
        "device_health",
        sa.Column("number", NUMBER, nullable=False),
        sa.Column("device_number", NUMBER, nullable=False),
        sa.Column("received_at", TIME, nullable=False),
        sa.Column("message", sa.JSON(), nullable=False),
        _device("device_health"),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_device_health")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_device_health_device", "device_health", ["device_number", "number"])
    op.create_table(
        "device_configurations",
        sa.Column("device_number", NUMBER, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("desired", sa.JSON(), nullable=False),
        sa.Column("desired_at", TIME, nullable=True),
        sa.Column("reported", sa.JSON(), nullable=True),
        sa.Column("reported_at", TIME, nullable=True),
        _device("device_configurations"),
        sa.PrimaryKeyConstraint("device_number", name=op.f("pk_device_configurations")),
    )
    op.create_table(
        "device_codes",
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("device_number", NUMBER, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        _device("device_codes"),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_device_codes")),
    )
    op.create_index(op.f("ix_device_codes_device_number"), "device_codes", ["device_number"])
    op.create_table(
        "ledger",
        sa.Column("device_number", NUMBER, nullable=False),
        sa.Column("camera", sa.String(length=63), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("tracks", sa.BigInteger(), nullable=False),
        sa.Column("with_probe", sa.BigInteger(), nullable=False),
        sa.Column("reasons", sa.JSON(), nullable=False),
        _device("ledger"),
        sa.PrimaryKeyConstraint("device_number", "camera", "day", name=op.f("pk_ledger")),
    )


def downgrade() -> None:
    for table in (
        "ledger",
        "device_codes",
        "device_configurations",
        "device_health",
        "device_gaps",
    ):
        op.drop_table(table)
    with op.batch_alter_table("devices") as devices:
        devices.drop_column("created_at")
        devices.drop_column("status_at")
