"""Templates and photos encrypted at rest; another model prepared beside"""

import sqlalchemy as sa
from alembic import op

from shared.errors import ConfigurationError

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_SEALED = ("templates", "images", "events")  # tables whose rows name their data key


def _of(table: str, column: str, target: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        [column], [target], name=op.f(f"fk_{table}_{column}"), ondelete="CASCADE"
    )


def upgrade() -> None:
    # Columns are added, never tables copied: a million templates would take a while, and SQLite
    # would forget which of their numbers were ever used.
    op.add_column(
        "collections", sa.Column("generation", sa.Integer(), nullable=False, server_default="0")
    )
    op.add_column(
        "collections",
        sa.Column("encrypted", sa.Boolean(), nullable=False, server_default=sa.false()),
    )
    op.create_table(
        "data_keys",
        sa.Column("number", NUMBER, nullable=False),
        sa.Column("collection_number", NUMBER, nullable=False),
        sa.Column("purpose", sa.String(length=10), nullable=False),
        sa.Column("key_id", sa.String(length=16), nullable=False),
        sa.Column("master_id", sa.String(length=16), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("retired_at", TIME, nullable=True),
        _of("data_keys", "collection_number", "collections.number"),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_data_keys")),
        sa.UniqueConstraint("key_id", name=op.f("uq_data_keys_key_id")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_data_keys_collection_number", "data_keys", ["collection_number"])
    number = NUMBER.compile(op.get_bind().dialect)
    for table in _SEALED:
        op.execute(  # the one form that both databases take, reference and all
            f"ALTER TABLE {table} ADD COLUMN data_key {number} "
            f"CONSTRAINT fk_{table}_data_key REFERENCES data_keys (number)"
        )
        used = sa.text("data_key IS NOT NULL")
        op.create_index(
            f"ix_{table}_data_key", table, ["data_key"], sqlite_where=used, postgresql_where=used
        )
    _create_other_model()


def _create_other_model() -> None:
    op.create_table(
        "spare_templates",
        sa.Column("row", NUMBER, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("collection_number", NUMBER, nullable=False),
        sa.Column("person_number", NUMBER, nullable=False),
        sa.Column("image_id", sa.String(length=36), nullable=True),
        sa.Column("model_id", sa.String(length=80), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.Column("data_key", NUMBER, nullable=True),
        sa.Column("quality", sa.Double(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        _of("spare_templates", "collection_number", "collections.number"),
        _of("spare_templates", "person_number", "persons.number"),
        _of("spare_templates", "image_id", "images.id"),
        sa.ForeignKeyConstraint(
            ["data_key"], ["data_keys.number"], name=op.f("fk_spare_templates_data_key")
        ),
        sa.PrimaryKeyConstraint("row", name=op.f("pk_spare_templates")),
        sa.UniqueConstraint("id", "model_id", name="uq_spare_templates_id"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_spare_templates_collection",
        "spare_templates",
        ["collection_number", "model_id", "number"],
    )
    for column in ("person_number", "image_id", "data_key"):
        op.create_index(f"ix_spare_templates_{column}", "spare_templates", [column])
    op.create_table(
        "model_changes",
        sa.Column("collection_number", NUMBER, nullable=False),
        sa.Column("model_id", sa.String(length=80), nullable=False),
        sa.Column("dimension", sa.Integer(), nullable=False),
        sa.Column("switched", sa.Boolean(), nullable=False),
        sa.Column("policy", sa.JSON(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        _of("model_changes", "collection_number", "collections.number"),
        sa.PrimaryKeyConstraint("collection_number", name=op.f("pk_model_changes")),
    )
    op.create_table(
        "unembedded",
        sa.Column("collection_number", NUMBER, nullable=False),
        sa.Column("template_id", sa.String(length=36), nullable=False),
        sa.Column("person_number", NUMBER, nullable=False),
        sa.Column("reason", sa.String(length=40), nullable=False),
        _of("unembedded", "collection_number", "collections.number"),
        _of("unembedded", "person_number", "persons.number"),
        sa.PrimaryKeyConstraint("collection_number", "template_id", name=op.f("pk_unembedded")),
    )
    op.create_index("ix_unembedded_person_number", "unembedded", ["person_number"])


def downgrade() -> None:
    encrypted = sa.text("SELECT count(*) FROM collections WHERE encrypted")
    if op.get_bind().execute(encrypted).scalar():
        raise ConfigurationError(
            "the older shape cannot hold encrypted collections: erase them first, or stay"
        )
    for table in ("unembedded", "model_changes", "spare_templates"):
        op.drop_table(table)
    for table in _SEALED:
        op.drop_index(f"ix_{table}_data_key", table_name=table)
        if table == "events":  # copied by a later step, which left the reference to the table
            with op.batch_alter_table(table) as events:
                events.drop_column("data_key")
        else:
            op.drop_column(table, "data_key")
    op.drop_table("data_keys")
    op.drop_column("collections", "encrypted")
    op.drop_column("collections", "generation")
