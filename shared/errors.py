"""All errors of the project. They know no transport: a table in the server maps them to HTTP."""

from typing import ClassVar

from pydantic import JsonValue


class MusterError(Exception):
    """An error for the caller: a stable `code`, a sentence that helps, `details` to parse."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str, **details: JsonValue) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class MalformedInput(MusterError):
    """Invalid input: a wrong type, length or range, or an unknown field."""

    code = "malformed"


class UnsupportedMedia(MusterError):
    """The bytes are not a picture, or a picture of an unsupported format."""

    code = "unsupported_media"


class TooLarge(MusterError):
    """A body, picture or message above its limit, refused before it is decoded."""

    code = "too_large"


class Unusable(MusterError):
    """The input is valid but cannot be used; `details["reasons"]` says why."""

    code = "unusable"


class NoFace(Unusable):
    """A picture in which no face was found."""

    code = "no_face"


class SeveralFaces(Unusable):
    """A picture with several faces of similar size: it is not clear which one is meant."""

    code = "several_faces"


class QualityRefused(Unusable):
    """A face below the required quality."""

    code = "quality_refused"


class NotFound(MusterError):
    """The named object does not exist, or no longer."""

    code = "not_found"


class Conflict(MusterError):
    """The request contradicts stored data."""

    code = "conflict"


class UnlikePerson(Conflict):
    """A picture that is not similar to the references of the person to enroll it for."""

    code = "unlike_person"


class SnapshotNeeded(MusterError):
    """The change feed no longer has the changes that a follower needs: take a new snapshot."""

    code = "snapshot_needed"


class ModelMismatch(Conflict):
    """Templates of different models cannot be compared."""

    code = "model_mismatch"


class Unauthenticated(MusterError):
    """The request has no key, or an unknown one."""

    code = "unauthenticated"


class Forbidden(MusterError):
    """A known key whose role does not allow the call."""

    code = "forbidden"


class RequestTimeout(MusterError):
    """The client did not send the request, or did not read the response, in time."""

    code = "request_timeout"


class RateLimited(MusterError):
    """Too many requests; `details["retry_after_s"]` is the time to wait."""

    code = "rate_limited"


class Unavailable(MusterError):
    """A service or device does not work at the moment; a later attempt may succeed."""

    code = "unavailable"


class StorageFull(Unavailable):
    """The disk is full; reading still works."""

    code = "storage_full"


class StorageReadOnly(Unavailable):
    """The file system is read-only; reading still works."""

    code = "storage_read_only"


class KeptElsewhere(Unavailable):
    """Another machine has the file; `details["kept_by"]` names its folder."""

    code = "kept_elsewhere"


class CollectionUnavailable(Unavailable):
    """One collection cannot be searched at the moment; others can."""


class KeyMissing(CollectionUnavailable):
    """Encrypted data cannot be read, because its key is not configured."""

    code = "key_missing"


class Damaged(MusterError):
    """Stored data was changed, cut short, or exchanged with other data."""

    code = "damaged"


class ConfigurationError(MusterError):
    """A setting is missing, unknown or invalid."""

    code = "configuration"


class InternalError(MusterError):
    """A fault of this program; the log has its traceback."""

    code = "internal"

    def __init__(self) -> None:
        super().__init__("something went wrong here; the server's log has more")


class PackError(MusterError):
    """A model pack cannot be fetched, installed, verified or opened."""

    code = "pack"


class SourceError(MusterError):
    """A camera, video, stream or folder of pictures cannot be opened or read."""

    code = "source"


class UnreadablePicture(SourceError):
    """One picture of a source cannot be read; the next one may be."""
