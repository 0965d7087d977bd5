"""Hashes for rows of templates that have none."""

import logging

from sqlalchemy import bindparam, select, update

from match_server.db.database import Database
from match_server.db.tables import Collection, Template
from match_server.services.encryption.stored_templates import TEMPLATES, read_templates
from match_server.services.encryption.vault import Vault
from shared.errors import Damaged, KeyMissing

log = logging.getLogger(__name__)

_AT_ONCE = 1000  # rows changed in one transaction: other writes wait some 20 ms


class TemplateHashes:
    """Hashes the templates of earlier versions, and those whose hash a user has deleted."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    def fill(self) -> int:
        """Hash all rows without a hash that can be read, and return their count."""
        concerned = select(Template.collection_number).where(Template.vector_hash.is_(None))
        with self._database.read() as session:
            numbers = session.scalars(concerned.distinct()).all()
            collections = session.scalars(
                select(Collection).where(Collection.number.in_(numbers))
            ).all()
        return sum(self._fill(collection) for collection in collections)

    def _fill(self, collection: Collection) -> int:
        count = after = 0
        model_id = collection.model_id
        missing = TEMPLATES.where(
            Template.collection_number == collection.number,
            Template.model_id == model_id,
            Template.vector_hash.is_(None),
        )
        while True:
            with self._database.read() as session:
                try:
                    cipher = self._vault.cipher(session, collection)
                except (Damaged, KeyMissing):
                    return count  # reported by the doctor
                portion = missing.where(Template.number > after).order_by(Template.number)
                rows = session.execute(portion.limit(_AT_ONCE)).all()
            if not rows:
                break
            after = rows[-1].number
            read = read_templates(cipher, model_id, collection.dimension, rows)
            ids = {row.number: row.id for row in rows}
            numbers = read.numbers.tolist()
            hashes = cipher.seal_hashes(model_id, [ids[number] for number in numbers], read.hashes)
            if numbers:
                self._store(model_id, numbers, hashes)
            count += len(numbers)
        if count:
            done = {"collection": collection.number, "templates": count}
            log.info("Hashed templates that had no hash", extra=done)
        return count

    def _store(self, model_id: str, numbers: list[int], hashes: list[int]) -> None:
        """Store hashes of rows, unless they were deleted, hashed or given another vector since."""
        unhashed = (
            update(Template)
            .where(
                Template.number == bindparam("row"),
                Template.model_id == model_id,
                Template.vector_hash.is_(None),
            )
            .values(vector_hash=bindparam("hash"))
        )
        values = [
            {"row": number, "hash": value} for number, value in zip(numbers, hashes, strict=True)
        ]
        with self._database.write() as session:
            session.connection().execute(unhashed, values)
