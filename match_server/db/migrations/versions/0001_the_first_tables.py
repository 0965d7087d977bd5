"""The first tables"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
CODE_POINTS = sa.String(200).with_variant(sa.String(200, collation="C"), "postgresql")
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("role", sa.String(length=20), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("device", sa.String(length=63), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("revoked_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
    )
    op.create_table(
        "changes",
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("collection_number", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=30), nullable=False),
        sa.Column("subject", sa.String(length=63), nullable=False),
        sa.Column("template_number", sa.BigInteger(), nullable=True),
        sa.Column("at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_changes")),
    )
    op.create_index("ix_changes_collection", "changes", ["collection_number", "seq"], unique=False)

    op.create_table(
        "collections",
        sa.Column("number", NUMBER, nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("model_id", sa.String(length=80), nullable=False),
        sa.Column("dimension", sa.Integer(), nullable=False),
        sa.Column("max_templates", sa.BigInteger(), nullable=True),
        sa.Column("template_count", sa.BigInteger(), nullable=False),
        sa.Column("person_count", sa.BigInteger(), nullable=False),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("policy", sa.JSON(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_collections")),
        sa.UniqueConstraint("name", name=op.f("uq_collections_name")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "counters",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_counters")),
    )
    op.create_table(
        "storages",
        sa.Column("number", NUMBER, nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("uri", sa.String(length=1000), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_storages")),
        sa.UniqueConstraint("name", name=op.f("uq_storages_name")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "doomed_files",
        sa.Column("file", sa.String(length=200), nullable=False),
        sa.Column("storage_number", NUMBER, nullable=True),
        sa.ForeignKeyConstraint(
            ["storage_number"],
            ["storages.number"],
            name=op.f("fk_doomed_files_storage_number"),
        ),
        sa.PrimaryKeyConstraint("file", name=op.f("pk_doomed_files")),
    )
    op.create_index(
        "ix_doomed_files_storage_number", "doomed_files", ["storage_number"], unique=False
    )
    op.create_table(
        "devices",
        sa.Column("number", NUMBER, nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("site", sa.String(length=63), nullable=True),
        sa.Column("collection_number", NUMBER, nullable=True),
        sa.Column("first_sequence", sa.BigInteger(), nullable=True),
        sa.Column("last_sequence", sa.BigInteger(), nullable=True),
        sa.Column("received", sa.BigInteger(), nullable=False),
        sa.Column("online", sa.Boolean(), nullable=True),
        sa.Column("last_seen_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["collection_number"],
            ["collections.number"],
            name=op.f("fk_devices_collection_number"),
            ondelete="SET NULL",
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_devices")),
        sa.UniqueConstraint("name", name=op.f("uq_devices_name")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "persons",
        sa.Column("number", NUMBER, nullable=False),
        sa.Column("id", sa.String(length=63), nullable=False),
        sa.Column("collection_number", NUMBER, nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("external_id", sa.String(length=200), nullable=True),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("expires_at", TIME, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_number"],
            ["collections.number"],
            name=op.f("fk_persons_collection_number"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_persons")),
        sa.UniqueConstraint("collection_number", "external_id", name="uq_persons_external_id"),
        sa.UniqueConstraint("collection_number", "id", name="uq_persons_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_persons_name", "persons", ["collection_number", "name"], unique=False)
    op.create_table(
        "imported_files",
        sa.Column("collection_number", NUMBER, nullable=False),
        sa.Column("sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("lines", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_number"],
            ["collections.number"],
            name=op.f("fk_imported_files_collection_number"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("collection_number", "sha256", name=op.f("pk_imported_files")),
    )
    op.create_table(
        "groups",
        sa.Column("number", NUMBER, nullable=False),
        sa.Column("id", sa.String(length=63), nullable=False),
        sa.Column("collection_number", NUMBER, nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_number"],
            ["collections.number"],
            name=op.f("fk_groups_collection_number"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_groups")),
        sa.UniqueConstraint("collection_number", "name", name="uq_groups_name"),
        sa.UniqueConstraint("id", name=op.f("uq_groups_id")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "memberships",
        sa.Column("group_number", NUMBER, nullable=False),
        sa.Column("person_number", NUMBER, nullable=False),
        sa.ForeignKeyConstraint(
            ["group_number"],
            ["groups.number"],
            name=op.f("fk_memberships_group_number"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["person_number"],
            ["persons.number"],
            name=op.f("fk_memberships_person_number"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("group_number", "person_number", name=op.f("pk_memberships")),
    )
    op.create_index("ix_memberships_person_number", "memberships", ["person_number"], unique=False)

    op.create_table(
        "person_fields",
        sa.Column("person_number", NUMBER, nullable=False),
        sa.Column("place", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("field", sa.String(length=200), nullable=False),
        sa.Column("text", CODE_POINTS, nullable=True),
        sa.Column("number", sa.Double(), nullable=True),
        sa.Column("truth", sa.Boolean(), nullable=True),
        sa.ForeignKeyConstraint(
            ["person_number"],
            ["persons.number"],
            name=op.f("fk_person_fields_person_number"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("person_number", "place", name=op.f("pk_person_fields")),
    )
    op.create_index("ix_person_fields_text", "person_fields", ["field", "text"], unique=False)
    op.create_index("ix_person_fields_number", "person_fields", ["field", "number"], unique=False)

    op.create_table(
        "events",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("created_revision", sa.BigInteger(), nullable=False),
        sa.Column("collection_number", NUMBER, nullable=True),
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("camera", sa.String(length=63), nullable=False),
        sa.Column("track_id", sa.String(length=36), nullable=False),
        sa.Column("decision", sa.String(length=20), nullable=False),
        sa.Column("person_number", NUMBER, nullable=True),
        sa.Column("person_erased", sa.Boolean(), nullable=False),
        sa.Column("similarity", sa.Double(), nullable=True),
        sa.Column("first_captured_at", TIME, nullable=False),
        sa.Column("last_captured_at", TIME, nullable=False),
        sa.Column("captured_at", TIME, nullable=False),
        sa.Column("received_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("live", sa.Boolean(), nullable=False),
        sa.Column("probes", sa.Integer(), nullable=False),
        sa.Column("quality", sa.JSON(), nullable=False),
        sa.Column("quality_score", sa.Double(), nullable=False),
        sa.Column("liveness", sa.Double(), nullable=True),
        sa.Column("box", sa.JSON(), nullable=False),
        sa.Column("frame_size", sa.JSON(), nullable=False),
        sa.Column("snapshot", sa.String(length=200), nullable=True),
        sa.ForeignKeyConstraint(
            ["collection_number"],
            ["collections.number"],
            name=op.f("fk_events_collection_number"),
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(
            ["person_number"],
            ["persons.number"],
            name=op.f("fk_events_person_number"),
            ondelete="SET NULL",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        sa.UniqueConstraint("device", "camera", "track_id", name="uq_events_track"),
        sa.UniqueConstraint("revision", name=op.f("uq_events_revision")),
    )
    op.create_index("ix_events_camera", "events", ["camera"], unique=False)
    op.create_index("ix_events_collection_number", "events", ["collection_number"], unique=False)
    op.create_index("ix_events_person_number", "events", ["person_number"], unique=False)
    op.create_index("ix_events_received", "events", ["received_at"], unique=False)

    op.create_table(
        "images",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("person_number", NUMBER, nullable=False),
        sa.Column("file", sa.String(length=200), nullable=True),
        sa.Column("storage_number", NUMBER, nullable=True),
        sa.Column("media_type", sa.String(length=40), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("quality", sa.JSON(), nullable=False),
        sa.Column("detection", sa.JSON(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["person_number"],
            ["persons.number"],
            name=op.f("fk_images_person_number"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["storage_number"], ["storages.number"], name=op.f("fk_images_storage_number")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_images")),
    )
    op.create_index("ix_images_storage_number", "images", ["storage_number"], unique=False)
    op.create_index("ix_images_person_number", "images", ["person_number"], unique=False)

    op.create_table(
        "event_candidates",
        sa.Column("event_id", sa.String(length=36), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("person_number", NUMBER, nullable=False),
        sa.Column("template_id", sa.String(length=36), nullable=False),
        sa.Column("similarity", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["event_id"],
            ["events.id"],
            name=op.f("fk_event_candidates_event_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["person_number"],
            ["persons.number"],
            name=op.f("fk_event_candidates_person_number"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("event_id", "rank", name=op.f("pk_event_candidates")),
    )
    op.create_index(
        "ix_event_candidates_person_number", "event_candidates", ["person_number"], unique=False
    )

    op.create_table(
        "probes",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("event_id", sa.String(length=36), nullable=True),
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("decision", sa.String(length=20), nullable=False),
        sa.Column("person_number", NUMBER, nullable=True),
        sa.Column("similarity", sa.Double(), nullable=True),
        sa.Column("captured_at", TIME, nullable=False),
        sa.Column("received_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["event_id"], ["events.id"], name=op.f("fk_probes_event_id"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["person_number"],
            ["persons.number"],
            name=op.f("fk_probes_person_number"),
            ondelete="SET NULL",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_probes")),
    )
    op.create_index("ix_probes_event_id", "probes", ["event_id"], unique=False)
    op.create_index("ix_probes_person_number", "probes", ["person_number"], unique=False)

    op.create_table(
        "templates",
        sa.Column("number", NUMBER, nullable=False),
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("collection_number", NUMBER, nullable=False),
        sa.Column("person_number", NUMBER, nullable=False),
        sa.Column("image_id", sa.String(length=36), nullable=True),
        sa.Column("model_id", sa.String(length=80), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.Column("quality", sa.Double(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_number"],
            ["collections.number"],
            name=op.f("fk_templates_collection_number"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["image_id"], ["images.id"], name=op.f("fk_templates_image_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["person_number"],
            ["persons.number"],
            name=op.f("fk_templates_person_number"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_templates")),
        sa.UniqueConstraint("id", name=op.f("uq_templates_id")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_templates_collection", "templates", ["collection_number", "number"], unique=False
    )
    op.create_index("ix_templates_image_id", "templates", ["image_id"], unique=False)
    op.create_index("ix_templates_person_number", "templates", ["person_number"], unique=False)

    counters = sa.table("counters", sa.column("name", sa.String), sa.column("value", sa.BigInteger))
    op.bulk_insert(counters, [{"name": "changes", "value": 0}, {"name": "events", "value": 0}])


def downgrade() -> None:
    op.drop_index("ix_templates_person_number", "templates")
    op.drop_index("ix_templates_image_id", "templates")
    op.drop_index("ix_templates_collection", "templates")

    op.drop_table("templates")
    op.drop_index("ix_probes_person_number", "probes")
    op.drop_index("ix_probes_event_id", "probes")

    op.drop_table("probes")
    op.drop_index("ix_event_candidates_person_number", "event_candidates")

    op.drop_table("event_candidates")
    op.drop_index("ix_images_person_number", "images")

    op.drop_index("ix_images_storage_number", "images")
    op.drop_table("images")
    op.drop_index("ix_events_received", "events")
    op.drop_index("ix_events_person_number", "events")
    op.drop_index("ix_events_collection_number", "events")
    op.drop_index("ix_events_camera", "events")

    op.drop_table("events")
    op.drop_index("ix_person_fields_number", "person_fields")
    op.drop_index("ix_person_fields_text", "person_fields")

    op.drop_table("person_fields")
    op.drop_index("ix_memberships_person_number", "memberships")

    op.drop_table("memberships")
    op.drop_table("groups")
    op.drop_table("imported_files")
    op.drop_index("ix_persons_name", "persons")

    op.drop_table("persons")
    op.drop_table("devices")
    op.drop_index("ix_doomed_files_storage_number", "doomed_files")
    op.drop_table("doomed_files")
    op.drop_table("storages")
    op.drop_table("counters")
    op.drop_table("collections")
    op.drop_index("ix_changes_collection", "changes")

    op.drop_table("changes")
    op.drop_table("api_keys")
