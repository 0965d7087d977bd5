"""Storage backends: a folder of one or several machines, or a bucket (S3)."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from match_server.folder_id import FolderIds, id_in
from match_server.services.storage.new_files import NewFiles
from shared.errors import Damaged, KeptElsewhere, MalformedInput, NotFound, Unavailable
from shared.files import unwritable, write_durably
from shared.ids import new_id

_CONNECT_S, _READ_S, _ATTEMPTS = 5, 20, 2


class Backend(Protocol):
    """Stores files under names like `photos/ab/…`. Raises Unavailable when that fails."""

    def new_name(self, kind: str) -> str:
        """A new unique name for a file of this kind."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Write a new file; it is on the disk when this returns."""
        ...

    def read(self, name: str) -> bytes:
        """Raises NotFound if the file was deleted, KeptElsewhere if another folder has it."""
        ...

    def delete(self, name: str) -> bool:
        """Delete a file. Returns whether it is deleted. False: another folder has it."""
        ...

    def reaches(self, name: str) -> bool:
        """Whether the file is here, or was before its deletion."""
        ...


def backend_of(uri: str) -> Backend:
    """The backend for a URI that `checked_uri` accepted. It does not connect yet."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return Folder(Path(unquote(parts.path)))
    return Bucket(uri)


def checked_uri(uri: str) -> str:
    """The URI, if it names a storage for photos. Raises MalformedInput.

    `file:///folder` (absolute) or `s3://bucket/prefix`. Keys are never part of it: they come from
    the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL …).
    """
    try:
        parts = urlsplit(uri)
    except ValueError:
        raise MalformedInput("uri: invalid URI") from None
    if parts.scheme not in ("file", "s3"):
        raise MalformedInput("uri: photos go to file:///folder or s3://bucket/prefix")
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise MalformedInput("uri: no keys, query or fragment; keys come from the environment")
    if ".." in Path(unquote(parts.path)).parts or "\0" in unquote(parts.path):
        raise MalformedInput("uri: the path may not contain `..`")
    if parts.scheme == "file" and (parts.netloc or not Path(unquote(parts.path)).is_absolute()):
        raise MalformedInput("uri: the folder must be absolute: file:///folder")
    if parts.scheme == "s3" and not parts.netloc:
        raise MalformedInput("uri: the bucket is missing: s3://bucket/prefix")
    return uri.rstrip("/")


def require_inside(name: str) -> None:
    """Raises Damaged if the name of a file leads out of its folder."""
    if name.startswith("/") or "\0" in name or ".." in PurePosixPath(name).parts:
        raise Damaged("a row names a file outside of the folder for files")


class Folder:
    """A folder of this machine. Its files are private to this user."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._ids: dict[str, FolderIds] = {}  # by kind, because each may be a mount
        self._new_files = NewFiles()

    def new_name(self, kind: str) -> str:
        (name,) = self.new_names(kind, 1)
        return name

    def new_names(self, kind: str, count: int) -> list[str]:
        """New unique names for files of one list, which lie in one folder."""
        folder = new_id()[-2:]
        try:
            own = self._ids_for(kind).own()
        except OSError as error:
            raise unwritable("a file cannot be stored", error) from error
        return [f"{kind}/{folder}/{new_id()}.{own}" for _ in range(count)]

    def write_new(self, files: Mapping[str, bytes]) -> None:
        """Write files with names of `new_names`; they are on the disk when this returns.

        A crash may leave a part of a file, so no row may name a file before this returns.
        """
        try:
            self._new_files.write({self._path(name): data for name, data in files.items()})
        except OSError as error:
            raise unwritable("a file cannot be stored", error) from error

    def write(self, name: str, data: bytes) -> None:
        path = self._path(name)
        try:
            if (folder := id_in(name)) is not None:  # of an import, else the own id
                self._ids_for(name).adopt(folder)
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_durably(path, data, mode=0o600)
        except OSError as error:
            raise unwritable("a file cannot be stored", error) from error

    def read(self, name: str) -> bytes:
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:
            folder = id_in(name)
            if folder is None or self._is_own(name):
                raise NotFound("the file is no longer there") from None
            raise KeptElsewhere(
                f"the file lies in the folder {folder}, not on this machine: ask the server there, "
                "or keep photos in a storage that all machines reach",
                kept_by=folder,
            ) from None
        except OSError as error:
            raise unwritable("a file cannot be read", error) from error

    def delete(self, name: str) -> bool:
        try:
            self._path(name).unlink()
        except FileNotFoundError:
            return self._is_own(name)
        except OSError as error:
            raise unwritable("a file cannot be deleted", error) from error
        return True

    def reaches(self, name: str) -> bool:
        return self._is_own(name) or self._path(name).exists()

    def _path(self, name: str) -> Path:
        """The path of a file. Raises Damaged for a name that leads out of this folder."""
        require_inside(name)
        return self._root / name

    def _is_own(self, name: str) -> bool:
        """Whether the file was written to this folder, by the id in its name."""
        folder = id_in(name)
        try:
            return folder is not None and self._ids_for(name).has(folder)
        except OSError as error:
            raise unwritable("a folder cannot be read", error) from error

    def _ids_for(self, name: str) -> FolderIds:
        kind = name.partition("/")[0]
        return self._ids.setdefault(kind, FolderIds(self._root / kind))


class Bucket:
    """A bucket of an S3 service, or a prefix in it."""

    def __init__(self, uri: str) -> None:
        self._root = uri.removeprefix("s3://")
        self._opened: Any = None

    def new_name(self, kind: str) -> str:
        identifier = new_id()
        return f"{kind}/{identifier[-2:]}/{identifier}"

    def write(self, name: str, data: bytes) -> None:
        with _translated():
            self._files.pipe_file(self._path(name), data)

    def read(self, name: str) -> bytes:
        with _translated():
            return bytes(self._files.cat_file(self._path(name)))

    def delete(self, name: str) -> bool:
        with _translated():
            self._files.rm_file(self._path(name))
        return True

    def reaches(self, name: str) -> bool:
        return True

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @property
    def _files(self) -> Any:
        """Opened at the first use: after the fork of a worker, and only if there are buckets."""
        if self._opened is None:
            from s3fs import S3FileSystem  # type: ignore[import-untyped]

            self._opened = S3FileSystem(
                skip_instance_cache=True,
                use_listings_cache=False,
                config_kwargs={
                    "connect_timeout": _CONNECT_S,
                    "read_timeout": _READ_S,
                    "retries": {"max_attempts": _ATTEMPTS},
                },
            )
        return self._opened


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]

    try:
        yield
    except FileNotFoundError:
        raise NotFound("the file, or its bucket, is no longer there") from None
    except (OSError, BotoCoreError) as error:  # its text may name the bucket, never a key
        raise Unavailable(f"the storage failed: {error}") from error


OpenBackend = Callable[[str], Backend]
