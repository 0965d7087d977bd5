"""Secrets of webhooks are sealed; the audit log may begin later than with its first entry"""

import sqlalchemy as sa
from alembic import op

from shared.errors import ConfigurationError

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("webhooks", sa.Column("master_id", sa.String(length=16), nullable=True))
    start = op.create_table(
        "audit_start",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.LargeBinary(length=32), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_start")),
    )
    op.bulk_insert(start, [{"id": 1, "number": 0, "hash": bytes(32)}])
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER audit_entries_no_delete")
        op.execute(
            "CREATE TRIGGER audit_entries_no_delete BEFORE DELETE ON audit_entries "
            "WHEN OLD.number > (SELECT number FROM audit_start WHERE id = 1) "
            "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
        )
        return
    op.execute("DROP TRIGGER audit_entries_no_change ON audit_entries")
    op.execute(
        "CREATE TRIGGER audit_entries_no_change BEFORE UPDATE OR TRUNCATE "
        "ON audit_entries FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()"
    )
    op.execute(
        "CREATE FUNCTION audit_keeps_its_end() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF OLD.number > (SELECT number FROM audit_start WHERE id = 1) THEN "
        "RAISE EXCEPTION 'the audit log is append-only'; END IF; RETURN OLD; END $$"
    )
    op.execute(
        "CREATE TRIGGER audit_entries_no_delete BEFORE DELETE ON audit_entries "
        "FOR EACH ROW EXECUTE FUNCTION audit_keeps_its_end()"
    )


def downgrade() -> None:
    bind = op.get_bind()
    if bind.execute(sa.text("SELECT count(*) FROM webhooks WHERE master_id IS NOT NULL")).scalar():
        raise ConfigurationError(
            "the older shape cannot hold sealed secrets of webhooks: remove those webhooks, or stay"
        )
    if bind.execute(sa.text("SELECT number FROM audit_start WHERE id = 1")).scalar():
        raise ConfigurationError(
            "the older shape cannot verify an audit log whose beginning was deleted: stay"
        )
    if bind.dialect.name == "sqlite":
        op.execute("DROP TRIGGER audit_entries_no_delete")
        op.execute(
            "CREATE TRIGGER audit_entries_no_delete BEFORE DELETE ON audit_entries "
            "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
        )
    else:
        op.execute("DROP TRIGGER audit_entries_no_delete ON audit_entries")
        op.execute("DROP FUNCTION audit_keeps_its_end()")
        op.execute("DROP TRIGGER audit_entries_no_change ON audit_entries")
        op.execute(
            "CREATE TRIGGER audit_entries_no_change BEFORE UPDATE OR DELETE OR TRUNCATE "
            "ON audit_entries FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()"
        )
    op.drop_table("audit_start")
    op.drop_column("webhooks", "master_id")
