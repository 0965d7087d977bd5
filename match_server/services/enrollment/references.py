"""What persons were enrolled from: their images and templates, listed and removed."""

import base64
from collections.abc import Sequence
from functools import partial

from pydantic import JsonValue
from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.orm import Session, contains_eager, joinedload

from match_server.db.database import Database
from match_server.db.tables import Collection, Image, Person, SpareTemplate, Template, Unembedded
from match_server.schemas.base import Page, Paging
from match_server.schemas.persons import Detection, ImageView, Removed, TemplateDetail, TemplateView
from match_server.services.change_feed import record
from match_server.services.encryption.stored_templates import read_templates
from match_server.services.encryption.vault import Vault
from match_server.services.lookups import collection_named, count_of, person_named
from match_server.services.paging import page_of
from match_server.services.storage.files import FileStore
from shared.clock import Clock
from shared.errors import Damaged, NotFound
from shared.wire.quality import Quality


class References:
    """Lists and removes the images and templates of persons."""

    def __init__(self, database: Database, files: FileStore, clock: Clock, vault: Vault) -> None:
        self._database = database
        self._files = files
        self._clock = clock
        self._vault = vault

    def images(self, collection: str, person_id: str, paging: Paging) -> Page[ImageView]:
        with self._database.read() as session:
            person = _person(session, collection, person_id)
            statement = select(Image).where(Image.person_number == person.number)
            statement = statement.options(joinedload(Image.storage))
            views = partial(_image_views, session, person.id)
            return page_of(session, statement, paging, Image.id, views=views)

    def image(self, image_id: str) -> ImageView:
        with self._database.read() as session:
            row = _image(session, image_id)
            (view,) = _image_views(session, row.person.id, [row])
            return view

    def photo(self, image_id: str) -> tuple[bytes, str]:
        """A kept photo and its media type. Raises NotFound when it was not kept."""
        try:
            return self._photo(image_id)
        except NotFound:  # a rotation of keys may have replaced the file just now
            return self._photo(image_id)

    def _photo(self, image_id: str) -> tuple[bytes, str]:
        with self._database.read() as session:
            row = _image(session, image_id)
            if row.file is None:
                raise NotFound(
                    f"the photo of image {image_id!r} was not kept (enroll with store=1)"
                )
            cipher = self._vault.cipher(session, _collection_of(session, row.person))
        return self._files.read(row.file, row.storage, cipher=cipher), _media_type(row)

    def remove_image(self, image_id: str) -> Removed:
        """Remove an image, its photo and the templates made from it."""
        with self._database.write() as session:
            row = _image(session, image_id)
            collection = _collection_of(session, row.person)
            self._files.doom(session, [(row.file, row.storage_number)])
            which = Template.image_id == row.id
            templates, seq = remove_templates(
                session, collection, which, row.person.id, self._clock
            )
            if not templates:
                now = self._clock.now()
                removed: dict[str, JsonValue] = {"image_removed": row.id}
                seq = record(
                    session,
                    collection.number,
                    "person_updated",
                    row.person.id,
                    now,
                    details=removed,
                )
            session.execute(delete(Image).where(Image.id == row.id))
        pending = self._files.sweep()
        return Removed(seq=seq, images=1, templates=templates, pending=pending)

    def templates(self, collection: str, person_id: str, paging: Paging) -> Page[TemplateView]:
        with self._database.read() as session:
            person = _person(session, collection, person_id)
            statement = select(Template).where(Template.person_number == person.number)
            return page_of(
                session,
                statement,
                paging,
                Template.number,
                views=lambda rows: [template_view(row, person.id) for row in rows],
            )

    def template(self, template_id: str, *, vector: bool) -> TemplateDetail:
        """One template, with its vector if asked for. Raises Damaged if that cannot be read."""
        with self._database.read() as session:
            row = _template(session, template_id)
            encoded = None
            if vector:
                collection = _collection_of(session, row.person)
                cipher = self._vault.cipher(session, collection)
                read = read_templates(cipher, row.model_id, collection.dimension, [row])
                for template, why in read.damaged.values():
                    raise Damaged(f"template {template!r} cannot be read: {why}")
                encoded = base64.b64encode(read.vectors.tobytes()).decode("ascii")
            view = template_view(row, row.person.id)
        return TemplateDetail(**view.model_dump(), vector=encoded)

    def remove_template(self, template_id: str) -> Removed:
        """Remove one template; the image that it was made from stays."""
        with self._database.write() as session:
            row = _template(session, template_id)
            collection = _collection_of(session, row.person)
            which = Template.number == row.number
            templates, seq = remove_templates(
                session, collection, which, row.person.id, self._clock
            )
        return Removed(seq=seq, images=0, templates=templates)


def remove_templates(
    session: Session,
    collection: Collection,
    which: ColumnElement[bool],
    person_id: str,
    clock: Clock,
) -> tuple[int, int]:
    """Delete the templates of a person that match a condition, with a change in the feed for each.

    Returns their count, and the number of the last change in the feed (0 for none).
    """
    seq = 0
    rows = session.execute(select(Template.number, Template.id).where(which)).all()
    for number, template_id in rows:
        now = clock.now()
        seq = record(
            session,
            collection.number,
            "template_removed",
            template_id,
            now,
            template_number=number,
            person=person_id,
        )
    ids = select(Template.id).where(which)  # their counterparts of another model are deleted too
    session.execute(delete(SpareTemplate).where(SpareTemplate.id.in_(ids)))
    session.execute(delete(Unembedded).where(Unembedded.template_id.in_(ids)))
    session.execute(delete(Template).where(which))
    session.execute(
        update(Collection)
        .where(Collection.number == collection.number)
        .values(template_count=Collection.template_count - len(rows))
    )
    return len(rows), seq


def reference_count(session: Session, person: Person) -> int:
    """How many templates a person has."""
    statement = (
        select(func.count()).select_from(Template).where(Template.person_number == person.number)
    )
    return count_of(session, statement)


def template_view(row: Template, person_id: str) -> TemplateView:
    return TemplateView(
        id=row.id,
        person=person_id,
        model_id=row.model_id,
        image_id=row.image_id,
        quality=row.quality,
        created_at=row.created_at,
    )


def _person(session: Session, collection: str, person_id: str) -> Person:
    return person_named(session, collection_named(session, collection), person_id)


def _collection_of(session: Session, person: Person) -> Collection:
    return session.get_one(Collection, person.collection_number)


def _template(session: Session, template_id: str) -> Template:
    row = session.scalars(
        select(Template)
        .join(Template.person)
        .options(contains_eager(Template.person))
        .where(Template.id == template_id)
    ).one_or_none()
    if row is None:
        raise NotFound(f"there is no template {template_id!r}")
    return row


def _image(session: Session, image_id: str) -> Image:
    row = session.scalars(
        select(Image)
        .join(Image.person)
        .options(contains_eager(Image.person), joinedload(Image.storage))
        .where(Image.id == image_id)
    ).one_or_none()
    if row is None:
        raise NotFound(f"there is no image {image_id!r}")
    return row


def _templates_of(session: Session, image_ids: Sequence[str]) -> dict[str, list[str]]:
    by_image: dict[str, list[str]] = {}
    rows = session.execute(
        select(Template.image_id, Template.id)
        .where(Template.image_id.in_(image_ids))
        .order_by(Template.number)
    )
    for image_id, template_id in rows:
        by_image.setdefault(str(image_id), []).append(template_id)
    return by_image


def _media_type(row: Image) -> str:
    """The media type; rows of earlier versions have `image/mpo`, which no browser knows."""
    return "image/jpeg" if row.media_type == "image/mpo" else row.media_type


def _image_views(session: Session, person_id: str, rows: Sequence[Image]) -> list[ImageView]:
    templates = _templates_of(session, [row.id for row in rows])
    return [_image_view(row, person_id, templates.get(row.id, [])) for row in rows]


def _image_view(row: Image, person_id: str, template_ids: list[str]) -> ImageView:
    return ImageView(
        id=row.id,
        person=person_id,
        stored=row.file is not None,
        storage=None if row.storage is None else row.storage.name,
        url=None if row.file is None else f"/v1/images/{row.id}/content",
        media_type=_media_type(row),
        size_bytes=row.size_bytes,
        quality=Quality.model_validate(row.quality),
        detection=Detection.model_validate(row.detection),
        template_ids=template_ids,
        created_at=row.created_at,
    )
