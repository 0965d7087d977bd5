"""Persons confirm and correct sightings"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _goes_with(table: str, column: str, other: str, key: str, how: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        [column], [f"{other}.{key}"], name=op.f(f"fk_{table}_{column}"), ondelete=how
    )


def upgrade() -> None:
    op.add_column("events", sa.Column("review", sa.String(length=20), nullable=True))
    op.create_table(
        "event_templates",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("event_id", sa.String(length=36), nullable=False),
        sa.Column("model_id", sa.String(length=80), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        _goes_with("event_templates", "event_id", "events", "id", "CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event_templates")),
        sa.UniqueConstraint("event_id", name=op.f("uq_event_templates_event_id")),
    )
    op.create_table(
        "event_decisions",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("event_id", sa.String(length=36), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("person_number", NUMBER, nullable=True),
        sa.Column("actor", sa.String(length=63), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("template_id", sa.String(length=36), nullable=True),
        _goes_with("event_decisions", "event_id", "events", "id", "CASCADE"),
        _goes_with("event_decisions", "person_number", "persons", "number", "CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event_decisions")),
        sa.UniqueConstraint("event_id", name=op.f("uq_event_decisions_event_id")),
    )
    op.create_index("ix_event_decisions_template", "event_decisions", ["template_id"])
    op.create_index(op.f("ix_event_decisions_person_number"), "event_decisions", ["person_number"])
    op.create_table(
        "event_labels",
        sa.Column("event_id", sa.String(length=36), nullable=False),
        sa.Column("decision_id", sa.String(length=36), nullable=False),
        sa.Column("decision", sa.String(length=20), nullable=False),
        sa.Column("person_number", NUMBER, nullable=True),
        sa.Column("person_erased", sa.Boolean(), nullable=False),
        _goes_with("event_labels", "event_id", "events", "id", "CASCADE"),
        _goes_with("event_labels", "decision_id", "event_decisions", "id", "CASCADE"),
        _goes_with("event_labels", "person_number", "persons", "number", "SET NULL"),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_event_labels")),
    )
    op.create_index(op.f("ix_event_labels_decision_id"), "event_labels", ["decision_id"])
    op.create_index(op.f("ix_event_labels_person_number"), "event_labels", ["person_number"])


def downgrade() -> None:
    op.drop_table("event_labels")
    op.drop_table("event_decisions")
    op.drop_table("event_templates")
    op.drop_column("events", "review")
