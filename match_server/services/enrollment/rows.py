"""The rows that an enrollment adds, in the transaction of the caller."""

from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from match_server.db.tables import Collection, Image, Person, Template
from match_server.schemas.persons import Detection
from match_server.services.change_feed import record
from match_server.services.encryption.vault import Cipher
from match_server.services.recognition.template_input import require_model
from match_server.services.storage.files import Kept
from models.images.formats import media_type_of
from shared.errors import Conflict, ModelMismatch
from shared.ids import new_id
from shared.wire.quality import Quality
from shared.wire.template import Template as FaceTemplate


def add_image(
    session: Session,
    person: Person,
    picture: bytes,
    file: Kept | None,
    quality: Quality,
    detection: Detection,
    now: datetime,
    cipher: Cipher,
) -> Image:
    """Add the row of a picture; `file` is its kept copy, None when it is not kept."""
    image = Image(
        id=new_id(),
        person_number=person.number,
        file=None if file is None else file.name,
        storage_number=None if file is None else file.storage_number,
        media_type=media_type_of(picture),
        size_bytes=len(picture),
        data_key=None if file is None else file.data_key,
        sha256=cipher.digest(picture),
        quality=quality.model_dump(mode="json"),
        detection=detection.model_dump(mode="json"),
        created_at=now,
    )
    session.add(image)
    return image


def add_template(
    session: Session,
    collection: Collection,
    person: Person,
    template: FaceTemplate,
    image: Image | None,
    quality: Quality | None,
    now: datetime,
    cipher: Cipher,
) -> tuple[Template, int]:
    """Add the row of a template, and return it with its number in the change feed.

    Raises Conflict when the collection is full, ModelMismatch when its model has just changed.
    """
    reserve_templates(session, collection, 1)
    require_model(template.model_id, collection)
    template_id = new_id()
    vector = template.vector.astype("<f2").tobytes()
    (vector_hash,) = cipher.hash_vectors(template.model_id, [template_id], [vector])
    row = Template(
        id=template_id,
        collection_number=collection.number,
        person_number=person.number,
        image_id=None if image is None else image.id,
        model_id=template.model_id,
        vector=cipher.seal_vector(template_id, template.model_id, vector),
        vector_hash=vector_hash,
        data_key=cipher.data_key,
        quality=None if quality is None else quality.score,
        created_at=now,
    )
    session.add(row)
    session.flush()
    seq = record(
        session,
        collection.number,
        "template_added",
        row.id,
        now,
        template_number=row.number,
        person=person.id,
        details={} if image is None else {"image": image.id},
    )
    return row, seq


def reserve_templates(session: Session, collection: Collection, templates: int) -> None:
    """Count templates before they are added, so that two requests cannot both take the last place.

    Raises Conflict when there is no room for all of them.
    """
    reserved = session.execute(
        update(Collection)
        .where(
            Collection.number == collection.number,
            Collection.generation == collection.generation,
            Collection.max_templates.is_(None)
            | (Collection.template_count + templates <= Collection.max_templates),
        )
        .values(template_count=Collection.template_count + templates)
        .returning(Collection.number)
    ).all()
    if not reserved:
        require_generation(session, collection)
        raise Conflict(
            f"collection {collection.name!r} is full: it may hold "
            f"{collection.max_templates} templates",
            max_templates=collection.max_templates,
        )


def require_generation(session: Session, collection: Collection) -> None:
    """Raises ModelMismatch when the collection's model was changed since `owner` was read."""
    now = session.scalar(
        select(Collection.generation).where(Collection.number == collection.number)
    )
    if now != collection.generation:
        raise ModelMismatch(
            f"the model of collection {collection.name!r} has just been changed; send it again"
        )
