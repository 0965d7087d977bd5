"""Templates of the probes that sightings show, kept as long as their thumbnails for learning."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from sqlalchemy import Table as SqlTable
from sqlalchemy import bindparam, delete, insert, update
from sqlalchemy.orm import Session

from match_server.db.tables import EventTemplate
from match_server.services.encryption.vault import Cipher
from match_server.services.lookups import batches
from shared.ids import new_id
from shared.wire.template import Template

# Plain table, without ORM mapping.
_TEMPLATES = cast(SqlTable, EventTemplate.__table__)
_DELETE = delete(_TEMPLATES).where(_TEMPLATES.c.event_id.in_(bindparam("events", expanding=True)))
_INSERT = insert(_TEMPLATES)


@dataclass(frozen=True, slots=True)
class ShownTemplate:
    """The searched template of the probe that a sighting shows now."""

    event_id: str
    template: Template
    cipher: Cipher


def keep_templates(session: Session, shown: Sequence[ShownTemplate]) -> None:
    """Store these templates in place of the sightings' earlier ones."""
    if not shown:
        return
    connection = session.connection()
    for ids in batches([template.event_id for template in shown]):
        connection.execute(_DELETE, {"events": ids})
    rows = []
    for template in shown:
        row_id, model_id = new_id(), template.template.model_id
        vector = template.template.vector.astype("<f2").tobytes()
        sealed = template.cipher.seal_vector(row_id, model_id, vector)
        row = {"id": row_id, "event_id": template.event_id, "model_id": model_id, "vector": sealed}
        rows.append(row)
    connection.execute(_INSERT, rows)


def keep_better_template(session: Session, into: str, gone: str, *, better: bool) -> None:
    """Merge the templates of two sightings (`gone` into `into`), keeping the shown template."""
    worse = into if better else gone
    session.execute(delete(EventTemplate).where(EventTemplate.event_id == worse))
    if better:
        moved = update(EventTemplate).where(EventTemplate.event_id == gone)
        session.execute(moved.values(event_id=into))
