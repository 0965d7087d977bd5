"""Reads cameras at an http:// address: MJPEG streams, and still pictures requested repeatedly."""

import re
import time
from typing import Final

import requests

from edge_agent.capture.address import split_login
from edge_agent.capture.http_login import CameraLogin, offers_of
from edge_agent.capture.jpeg_decoding import decode_jpeg, max_pixels
from edge_agent.capture.mjpeg_source import MAX_JPEG_BYTES, MjpegStream
from edge_agent.config.camera import ConnectionSettings
from models.types import BgrImage
from shared.addresses import redacted
from shared.errors import MusterError, SourceError, UnreadablePicture
from shared.unreachable import why_unreachable

_OPEN_S: Final = 10.0
_STILLS_A_SECOND: Final = 2.0  # unless the settings have another rate
_READ_BYTES: Final = 65_536
_MJPEG_TYPES: Final = ("multipart/x-mixed-replace", "multipart/mixed")
_BOUNDARY: Final = re.compile(r"boundary\s*=\s*(\"[^\"]*\"|[^;\s]+)", re.IGNORECASE)
_TRUST: Final = "set the camera's ca_file to its certificate, or to the authority that signed it"
_BUSY: Final = (408, 429)


def open_over_http(
    spec: str, settings: ConnectionSettings, stall_s: float
) -> "MjpegStream | StillCamera | None":
    """Opens the camera at an address. None for another content, such as a video stream.

    Raises SourceError where the camera cannot be opened.
    """
    camera = _Camera(spec, settings)
    response = camera.get(stall_s)
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in _MJPEG_TYPES:
        return MjpegStream(camera.name, response, _boundary(response), stall_s)
    response.close()
    if kind.startswith("image/"):
        return StillCamera(camera, settings.fps or _STILLS_A_SECOND, stall_s)
    camera.close()
    return None


class _Camera:
    """Requests to one camera, with its login, over a kept settings."""

    def __init__(self, spec: str, settings: ConnectionSettings) -> None:
        self.name = redacted(spec)
        self._url, login = split_login(spec)
        login = settings.login() or login
        self._session = requests.Session()
        self._session.headers["Accept-Encoding"] = "identity"  # pictures are compressed already
        self._session.auth = None if login is None else CameraLogin(*login)
        # Given with each request, because the environment overrides the settings of a session.
        self._trust = True if settings.ca_file is None else str(settings.ca_file)

    def get(self, silence_s: float) -> requests.Response:
        """A successful response, its body not yet read. Raises SourceError for any other."""
        timeout = (_OPEN_S, max(_OPEN_S, silence_s))
        try:
            response = self._session.get(
                self._url, stream=True, timeout=timeout, verify=self._trust
            )
        except (requests.RequestException, OSError, ValueError) as error:
            why = why_unreachable(error, trust=_TRUST, plain="http://")
            message = f"{self.name} cannot be opened: {why.cause}; {why.advice}"
            raise SourceError(message, source=self.name) from error
        if response.ok:
            return response
        status, why_not = response.status_code, self._why_not(response)
        response.close()
        kind = UnreadablePicture if status >= 500 or status in _BUSY else SourceError
        raise kind(f"{self.name} answers {status}: {why_not}", source=self.name)

    def close(self) -> None:
        self._session.close()

    def _why_not(self, response: requests.Response) -> str:
        if response.status_code not in (401, 403):
            return response.reason or "is the address right?"
        if response.status_code == requests.codes.unauthorized:
            offers = offers_of(response)
            if offers and all(offer.rank < 0 for offer in offers):
                kinds = ", ".join(sorted({offer.scheme for offer in offers}))
                return f"it offers only logins that are not known here ({kinds})"
            if self._session.auth is None:
                return "it asks for a name and a password: set username and password_file"
        return "are name and password right?"


class StillCamera:
    """A camera with one picture for each request, `fps` times a second.

    A response that the camera is busy counts as an unreadable picture, not as an outage.
    """

    live, stills = True, False

    def __init__(self, camera: _Camera, fps: float, stall_s: float) -> None:
        self._camera = camera
        self._every_s = 1.0 / fps
        self._stall_s = stall_s
        self._due_s = time.monotonic()
        self._picture: bytes | UnreadablePicture = b""

    def grab(self) -> float:
        time.sleep(max(0.0, self._due_s - time.monotonic()))
        self._due_s = max(self._due_s + self._every_s, time.monotonic())
        try:
            self._picture = self._fetch()
        except UnreadablePicture as error:
            self._picture = error
        return time.monotonic()

    def retrieve(self) -> BgrImage:
        if isinstance(self._picture, UnreadablePicture):
            raise self._picture
        if self._picture.startswith(b"\xff\xd8"):
            return decode_jpeg(self._picture)
        # Imported here: a device without such a camera saves the memory of these decoders.
        from models.images.decoding import PictureLimits, read_picture

        try:
            return read_picture(self._picture, PictureLimits(max_pixels=max_pixels()))
        except MusterError as error:
            raise UnreadablePicture(error.message) from error

    def close(self) -> None:
        self._camera.close()

    def _fetch(self) -> bytes:
        data, began_s = bytearray(), time.monotonic()
        response = self._camera.get(self._stall_s)
        try:
            for chunk in response.iter_content(_READ_BYTES):
                data += chunk
                if len(data) > MAX_JPEG_BYTES:
                    raise UnreadablePicture(f"the picture has more than {MAX_JPEG_BYTES:,} bytes")
                if time.monotonic() - began_s > self._stall_s:
                    raise UnreadablePicture(f"the picture takes more than {self._stall_s:.3g} s")
        except (requests.RequestException, OSError) as error:
            raise UnreadablePicture("the picture ended before its time") from error
        finally:
            response.close()
        return bytes(data)


def _boundary(response: requests.Response) -> bytes:
    """The announced boundary between two pictures; empty where there is none."""
    boundary = _BOUNDARY.search(response.headers.get("Content-Type", ""))
    # Some cameras announce it with the two dashes that stand before each use.
    return boundary[1].strip('"').lstrip("-").encode() if boundary else b""
