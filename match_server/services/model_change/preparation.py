"""Prepares a change of model: makes templates of the other model from the kept photos."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import delete, func, select

from match_server.db.tables import (
    Collection,
    Image,
    ModelChange,
    SpareTemplate,
    Storage,
    Template,
    Unembedded,
)
from match_server.services.encryption.vault import Cipher
from match_server.services.faces.detection import embedded
from match_server.services.faces.face_engine import FaceEngine
from match_server.services.lookups import collection_named, count_of
from match_server.services.model_change.state import counterpart_count, locked, without_counterpart
from match_server.services.recognition.context import Recognition
from match_server.services.storage.files import FileStore
from models.types import Face
from shared.errors import (
    Conflict,
    Damaged,
    InternalError,
    KeptElsewhere,
    MalformedInput,
    MusterError,
    NotFound,
    PackError,
    Unavailable,
)

log = logging.getLogger(__name__)

_AT_ONCE = 8  # photos whose templates are written in one transaction


class Preparation:
    """Makes the templates of another model, which wait beside those in use."""

    def __init__(self, recognition: Recognition, files: FileStore) -> None:
        self._database = recognition.database
        self._vault = recognition.vault
        self._clock = recognition.clock
        self._files = files

    def run(
        self, name: str, models: FaceEngine, report: Callable[[int, int], None] = lambda *_: None
    ) -> None:
        """Make templates with `models` from all kept photos that have none yet.

        A second call continues after an interruption; templates that are enrolled in the meantime
        are included. `report` is called with (done, total). Raises Conflict when another model is
        being prepared, Unavailable when a storage cannot be reached.
        """
        collection = self._begin(name, models)
        after = 0
        while rows := self._missing(collection, models.model_id, after):
            made = [(row, self._embedded(collection, row, models)) for row in rows]
            self._keep(collection, models.model_id, made)
            after = rows[-1].number
            report(*self._counts(collection, models.model_id))

    def _begin(self, name: str, models: FaceEngine) -> Collection:
        with self._database.write() as session:
            collection = collection_named(session, name)
            if models.model_id == collection.model_id:
                raise MalformedInput(f"collection {name!r} uses {models.model_id!r} already")
            change = session.get(ModelChange, collection.number)
            if change is None:
                change = ModelChange(
                    collection_number=collection.number,
                    model_id=models.model_id,
                    dimension=models.dimension,
                    switched=False,
                    policy={},
                    created_at=self._clock.now(),
                )
                session.add(change)
            elif change.model_id != models.model_id:
                raise Conflict(
                    f"collection {name!r} is changing between {collection.model_id!r} and "
                    f"{change.model_id!r}: finish that first"
                )
            # Failed templates are tried again: their photos may be available now.
            failed = Unembedded.collection_number == collection.number
            session.execute(delete(Unembedded).where(failed))
            return collection

    def _missing(self, collection: Collection, model_id: str, after: int) -> Sequence[Any]:
        """Templates without a counterpart and without a reason for that, with their photos."""
        columns = select(
            Template.number, Template.id, Template.image_id, Image.file, Image.detection, Storage
        )
        statement = (
            columns.outerjoin(Image, Image.id == Template.image_id)
            .outerjoin(Storage, Storage.number == Image.storage_number)
            .where(without_counterpart(collection, model_id), Template.number > after)
        )
        with self._database.read() as session:
            return session.execute(statement.order_by(Template.number).limit(_AT_ONCE)).all()

    def _embedded(self, collection: Collection, row: Any, models: FaceEngine) -> Face | str:
        """The template's face, analyzed by other models; or the reason why there is none."""
        if row.file is None:
            return "no_photo"
        try:
            with self._database.read() as session:
                cipher = self._vault.cipher(session, collection)
            photo = self._files.read(row.file, row.Storage, cipher=cipher)
            face = models.face_at(photo, row.detection["box"])
        except NotFound:
            return "photo_missing"
        except KeptElsewhere:
            return "photo_elsewhere"
        except Damaged:
            return "photo_damaged"
        except (Unavailable, PackError):
            raise  # not about this photo
        except MusterError as error:
            return error.code
        except Exception:  # of a library that reads the photo: the others go on
            log.exception("Failed to read a photo", extra={"image": row.image_id})
            return InternalError.code
        return "no_face" if face is None else face

    def _keep(
        self, collection: Collection, model_id: str, made: Sequence[tuple[Any, Face | str]]
    ) -> None:
        """Write the counterparts of templates that still exist and still have none."""
        with self._database.write() as session:
            current = locked(session, collection.name)
            if current.generation != collection.generation:
                raise Conflict(
                    f"the model of {collection.name!r} was changed meanwhile: start again"
                )
            cipher = self._vault.cipher(session, collection)
            ids = [row.id for row, _ in made]
            statement = select(Template).where(
                Template.id.in_(ids), without_counterpart(collection, model_id)
            )
            templates = {
                template.id: template for template in session.scalars(statement.with_for_update())
            }
            for row, face in made:
                template = templates.get(row.id)
                if template is None:  # erased, or another run was quicker
                    continue
                if isinstance(face, str):
                    session.add(
                        Unembedded(
                            collection_number=collection.number,
                            template_id=template.id,
                            person_number=template.person_number,
                            reason=face,
                        )
                    )
                else:
                    session.add(_spare(cipher, template, model_id, face))

    def _counts(self, collection: Collection, model_id: str) -> tuple[int, int]:
        with self._database.read() as session:
            known = count_of(session, counterpart_count(collection, model_id)) + count_of(
                session,
                select(func.count()).where(Unembedded.collection_number == collection.number),
            )
            whole = select(func.count()).where(Template.collection_number == collection.number)
            return known, count_of(session, whole)


def _spare(cipher: Cipher, template: Template, model_id: str, face: Face) -> SpareTemplate:
    vector = embedded(face).vector.astype("<f2").tobytes()
    (vector_hash,) = cipher.hash_vectors(model_id, [template.id], [vector])
    return SpareTemplate(
        number=template.number,
        id=template.id,
        collection_number=template.collection_number,
        person_number=template.person_number,
        image_id=template.image_id,
        model_id=model_id,
        vector=cipher.seal_vector(template.id, model_id, vector),
        vector_hash=vector_hash,
        data_key=cipher.data_key,
        quality=face.quality.score,
        created_at=template.created_at,
    )
