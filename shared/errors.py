"""The one error tree. It knows no transport: a table in the server maps it to HTTP."""

from typing import ClassVar

from pydantic import JsonValue


class MusterError(Exception):
    """What a caller can act on: a stable `code`, a sentence that helps, `details` to parse."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str, **details: JsonValue) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class MalformedInput(MusterError):
    """The input is not what the contract asks for: wrong type, length, range or unknown field."""

    code = "malformed"


class UnsupportedMedia(MusterError):
    """The bytes are not a picture, or of a kind that is not read."""

    code = "unsupported_media"


class TooLarge(MusterError):
    """A body, picture or message above its limit, refused before it is decoded."""

    code = "too_large"


class Unusable(MusterError):
    """Understood, but nothing can be made of it; `details["reasons"]` says why."""

    code = "unusable"


class NoFace(Unusable):
    """A picture in which no face was found."""

    code = "no_face"


class SeveralFaces(Unusable):
    """A picture with several faces of like size, and nothing says which one is meant."""

    code = "several_faces"


class QualityRefused(Unusable):
    """A face below the quality that is asked for."""

    code = "quality_refused"


class NotFound(MusterError):
    """The thing named does not exist (or no longer)."""

    code = "not_found"


class Conflict(MusterError):
    """The request contradicts what is stored."""

    code = "conflict"


class UnlikePerson(Conflict):
    """A picture that is unlike the references of the person it was to be enrolled for."""

    code = "unlike_person"


class SnapshotNeeded(MusterError):
    """A follower stands at a place of the change feed from which it cannot go on: begin anew."""

    code = "snapshot_needed"


class ModelMismatch(Conflict):
    """A template of one model was about to meet a template of another."""

    code = "model_mismatch"


class Unauthenticated(MusterError):
    """No key, or a key that is not known."""

    code = "unauthenticated"


class Forbidden(MusterError):
    """A known key whose role does not allow the call."""

    code = "forbidden"


class RequestTimeout(MusterError):
    """A client did not send its request, or did not take the answer, in the time that it has."""

    code = "request_timeout"


class RateLimited(MusterError):
    """Too much was asked in too short a time; `details["retry_after_s"]` says when to come back."""

    code = "rate_limited"


class Unavailable(MusterError):
    """Something that is needed does not answer at the moment; trying later may help."""

    code = "unavailable"


class StorageFull(Unavailable):
    """The disk has no room for what is to be stored; reading goes on."""

    code = "storage_full"


class StorageReadOnly(Unavailable):
    """The file system is mounted read-only, or became so by itself; reading goes on."""

    code = "storage_read_only"


class KeptElsewhere(Unavailable):
    """A file that another machine keeps; `details["kept_by"]` names its folder."""

    code = "kept_elsewhere"


class CollectionUnavailable(Unavailable):
    """One collection cannot be searched at the moment; others can."""


class KeyMissing(CollectionUnavailable):
    """What is encrypted cannot be read, because the key for it was not given."""

    code = "key_missing"


class Damaged(MusterError):
    """Stored bytes are not what was stored: changed, cut short, or put in another's place."""

    code = "damaged"


class ConfigurationError(MusterError):
    """A setting is missing, unknown or impossible."""

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
    """A camera, video, stream or folder of pictures cannot be opened or read on."""

    code = "source"


class UnreadablePicture(SourceError):
    """One picture of a source cannot be read; the next one may be."""
