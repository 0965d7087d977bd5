"""Where files lie: a folder of this machine, or a bucket that speaks S3."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from shared.errors import MalformedInput, NotFound, Unavailable

_CONNECT_S, _READ_S, _ATTEMPTS = 5, 20, 2


class Place(Protocol):
    """What keeps files under names like `photos/ab/…`. Raises Unavailable when it does not work."""

    def write(self, name: str, data: bytes) -> None:
        """Keep a new file; it is safe when this returns."""
        ...

    def read(self, name: str) -> bytes:
        """Raises NotFound when the file is gone."""
        ...

    def delete(self, name: str) -> None:
        """A file that is gone already is no error."""
        ...


def place_at(uri: str) -> Place:
    """The place of a URI that `checked_uri` let through. Nothing is connected yet."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return Folder(Path(unquote(parts.path)))
    return Bucket(uri)


def checked_uri(uri: str) -> str:
    """The URI, where it names a place that photos can go to. Raises MalformedInput.

    `file:///folder` (absolute) or `s3://bucket/prefix`. Keys are never part of it: they come from
    the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL …).
    """
    try:
        parts = urlsplit(uri)
    except ValueError:
        raise MalformedInput("uri: this is no URI") from None
    if parts.scheme not in ("file", "s3"):
        raise MalformedInput("uri: photos go to file:///folder or s3://bucket/prefix")
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise MalformedInput("uri: no keys, query or fragment; keys come from the environment")
    if ".." in Path(unquote(parts.path)).parts or "\0" in unquote(parts.path):
        raise MalformedInput("uri: the path may not hold `..`")
    if parts.scheme == "file" and (parts.netloc or not Path(unquote(parts.path)).is_absolute()):
        raise MalformedInput("uri: a folder is given from the root on: file:///folder")
    if parts.scheme == "s3" and not parts.netloc:
        raise MalformedInput("uri: the bucket is missing: s3://bucket/prefix")
    return uri.rstrip("/")


class Folder:
    """A folder of this machine; written files are on the disk, private to this user."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def write(self, name: str, data: bytes) -> None:
        path = self._root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with os.fdopen(_new_private_file(path), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            _sync_folder(path.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                path.unlink()
            raise Unavailable(f"a file cannot be kept: {error.strerror}") from error

    def read(self, name: str) -> bytes:
        try:
            return (self._root / name).read_bytes()
        except FileNotFoundError:
            raise NotFound("the file is no longer there") from None
        except OSError as error:
            raise Unavailable(f"a file cannot be read: {error.strerror}") from error

    def delete(self, name: str) -> None:
        try:
            (self._root / name).unlink(missing_ok=True)
        except OSError as error:
            raise Unavailable(f"a file cannot be deleted: {error.strerror}") from error


class Bucket:
    """A bucket, or a prefix in it, of anything that speaks S3."""

    def __init__(self, uri: str) -> None:
        self._root = uri.removeprefix("s3://")
        self._opened: Any = None

    def write(self, name: str, data: bytes) -> None:
        with _translated():
            self._files.pipe_file(self._path(name), data)

    def read(self, name: str) -> bytes:
        with _translated():
            return bytes(self._files.cat_file(self._path(name)))

    def delete(self, name: str) -> None:
        with _translated():
            self._files.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @property
    def _files(self) -> Any:
        """Opened at the first use: after the worker has forked, and not at all without buckets."""
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
    except (OSError, BotoCoreError) as error:  # whose text may name the bucket, never a key
        raise Unavailable(f"the storage does not answer as it should: {error}") from error


def _new_private_file(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


OpenPlace = Callable[[str], Place]
