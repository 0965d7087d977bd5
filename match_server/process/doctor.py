"""`match-server doctor`: checks of a server, with advice for each problem."""

import shutil
from collections.abc import Callable

from match_server.container import Services, build_services
from match_server.data_folder import require_data_folder
from match_server.db.migrations import (
    current_revision,
    head_revision,
    require_known,
    require_tables,
)
from match_server.schemas.collections import CollectionQuery
from match_server.schemas.feed import FollowerQuery
from match_server.services.encryption.stored_templates import damaged_templates
from match_server.services.faces.engines import face_engine
from match_server.settings import Settings
from models.packs.choice import DetectorChoice
from shared.checks import Check
from shared.errors import MusterError, PackError
from shared.gallery.kernels import best_kernel, compiled_kernels

_FREE_BYTES = 500 * 1024 * 1024
_NAMED = 5


def examine(settings: Settings) -> list[Check]:
    """Checks data folder, database, keys, copies of galleries and face models; changes nothing.

    Checks that depend on a failed one are left out: as another user, or with the database of
    another version, all of them would be false alarms.
    """
    models = _check("models", lambda: _models(settings))
    folder = _data_folder(settings)
    if not folder.ok:
        return [folder, models]
    services = build_services(settings)
    try:
        database = _check("database", lambda: _database(services))
        if not database.ok:
            return [folder, database, models]
        return [
            folder,
            database,
            _check("collections", lambda: _collections(services)),
            _check("thresholds", lambda: _thresholds(services)),
            _check("encryption", lambda: _encryption(services)),
            _check("templates", lambda: _templates(services)),
            _check("followers", lambda: _followers(services)),
            _check("keys", lambda: _keys(services)),
            models,
            _check("gallery", _gallery),
        ]
    finally:
        services.close()


def _check(name: str, look: Callable[[], tuple[bool, str]]) -> Check:
    try:
        ok, message = look()
    except MusterError as error:
        ok, message = False, error.message
    return _result(name, ok, message)


def _result(name: str, ok: bool, message: str) -> Check:
    return Check(name, "well" if ok else "bad", message)


def _data_folder(settings: Settings) -> Check:
    folder = settings.data_dir
    try:
        require_data_folder(settings)
    except MusterError as error:
        return _result("data folder", False, error.message)
    free = shutil.disk_usage(folder).free
    message = f"{folder}, {free // 2**20} MiB free"
    if free < _FREE_BYTES:
        message += f"; that is little, make room for {_FREE_BYTES // 2**20} MiB"
    if folder.stat().st_mode & 0o077:
        message = f"others may look into {folder}: chmod 700 {folder}"
        return _result("data folder", False, message)
    return _result("data folder", free >= _FREE_BYTES, message)


def _database(services: Services) -> tuple[bool, str]:
    revision, head = current_revision(services.database), head_revision()
    require_known(revision)
    if revision != head:
        return (
            False,
            f"at migration {revision}, needs {head}: {services.settings.command('migrate')}",
        )
    require_tables(services.database)
    return True, f"{services.database.url.get_backend_name()}, at migration {head}"


def _gallery() -> tuple[bool, str]:
    if not compiled_kernels():
        return True, (
            "scanned by numpy, which is slow: install a C compiler and Python's headers "
            "(Debian: apt-get install gcc python3-dev), then this package again"
        )
    name = best_kernel().name
    return True, f"scanned by the {name} kernel; `python -m shared.gallery` measures it"


def _collections(services: Services) -> tuple[bool, str]:
    collections = services.collections.page(CollectionQuery(size=1000)).items
    name = services.settings.default_collection
    if all(collection.name != name for collection in collections):
        return (
            False,
            f"the collection {name!r} that probes search is missing; "
            f"`{services.settings.command('serve')}` makes it",
        )
    for collection in collections:
        try:
            services.engines.of_model(collection.model_id)
        except PackError as error:
            return False, f"pictures cannot be searched in {collection.name}: {error.message}"
    templates = sum(collection.templates for collection in collections)
    persons = sum(collection.persons for collection in collections)
    return True, f"{len(collections)} with {persons} persons and {templates} templates"


def _thresholds(services: Services) -> tuple[bool, str]:
    lines = services.policy_warnings.lines()
    if lines:
        return False, "; ".join(lines)
    return True, "no collection names strangers more often than its policy says"


def _encryption(services: Services) -> tuple[bool, str]:
    locked = services.vault.locked(services.database)
    if locked:
        return False, (
            f"{', '.join(locked)} cannot be read: give their master key in "
            f"MUSTER_ENCRYPTION_KEY_FILE (see `{services.settings.command('keyring list')}`)"
        )
    if secrets := services.secrets.locked(services.database):
        return False, (
            f"{secrets} secrets (of webhooks and of configurations of boxes) cannot be read: give "
            "their master key in MUSTER_ENCRYPTION_KEY_FILE"
        )
    if services.rotation.unfinished():
        again = services.settings.command("keyring rotate --data")
        return False, f"a rotation was interrupted: {again}"
    return True, "every encrypted collection can be read"


def _templates(services: Services) -> tuple[bool, str]:
    damaged = damaged_templates(services.database, services.vault)
    if not damaged:
        return True, "every template can be read"
    first = ", ".join(f"{one.template} of {one.collection}" for one in damaged[:_NAMED])
    more = f" and {len(damaged) - _NAMED} more" if len(damaged) > _NAMED else ""
    return False, (
        f"{len(damaged)} cannot be read, so they match nobody: {first}{more}. Bring them "
        "back from a backup, or delete them (DELETE /v1/templates/ID) and enroll them again"
    )


def _followers(services: Services) -> tuple[bool, str]:
    problems = []
    if stored := services.galleries.stored_differences():
        problems.append(
            f"galleries on the disk differ from the database: {'; '.join(stored[:_NAMED])}. A "
            "server that runs mends them within five minutes, and when it starts"
        )
    boxes = [
        f"{row.device}, {row.collection}: {row.differs}"
        for row in services.followers.page(FollowerQuery(size=1000)).items
        if row.differs is not None
    ]
    if boxes:
        problems.append(
            f"boxes differ from the database: {'; '.join(boxes[:_NAMED])}. They take a new "
            "snapshot; if that does not help, look at their disks"
        )
    if problems:
        return False, "; ".join(problems)
    return True, "galleries on the disk and boxes agree with the database"


def _keys(services: Services) -> tuple[bool, str]:
    if services.keys.any_valid():
        return True, "there is a valid key"
    return False, f"there is no valid key: {services.settings.command('key create --role admin')}"


def _models(settings: Settings) -> tuple[bool, str]:
    detector = DetectorChoice(settings.model_detector)
    faces = face_engine(settings.model_pack, settings.picture_limits, detector)
    faces.open()
    return True, f"{faces.model_id}, {faces.dimension} values a template"
