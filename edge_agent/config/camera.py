"""Settings of one camera: where its pictures come from, which part is searched, and how often."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from edge_agent.config.secrets import read_secret
from edge_agent.config.section import Section
from shared.files import readable
from shared.wire.messages import Name

Point = tuple[float, float]  # x, y as fractions 0..1 of the upright picture
Polygon = tuple[Point, ...]
Region = tuple[float, float, float, float]  # x1 y1 x2 y2 as fractions of the upright picture

_MIN_REGION = 0.02  # of the picture's width or height


class ConnectionSettings(Section):
    """What is requested of a camera, as far as its kind allows it."""

    width: int | None = Field(default=None, ge=16, le=16_384)
    height: int | None = Field(default=None, ge=16, le=16_384)
    fps: float | None = Field(default=None, gt=0, le=1000)
    transport: Literal["tcp", "udp"] = "tcp"  # of RTSP's pictures
    username: str | None = Field(default=None, min_length=1, max_length=255)
    password_file: Path | None = None
    ca_file: Annotated[Path | None, AfterValidator(readable)] = None

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        if (self.width is None) != (self.height is None):
            raise ValueError("give width and height, or neither")
        if (self.username is None) != (self.password_file is None):
            raise ValueError("give username and password_file, or neither")
        return self

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height in pixels; None for the camera's default."""
        return None if self.width is None or self.height is None else (self.width, self.height)

    def login(self) -> tuple[str, str] | None:
        """Name and password. Raises ConfigurationError where the password cannot be read."""
        if self.username is None:
            return None
        return self.username, read_secret(self.password_file) or ""


class ViewSettings(Section):
    """Which part of a camera's pictures is searched. The defaults change nothing."""

    rotate: Literal[0, 90, 180, 270] = 0  # degrees clockwise, until people stand upright
    region: Region = (0.0, 0.0, 1.0, 1.0)
    masks: Annotated[tuple[Polygon, ...], Field(max_length=64)] = ()  # blacked out

    @field_validator("region")
    @classmethod
    def _check_region(cls, region: Region) -> Region:
        x1, y1, x2, y2 = region
        inside = all(0 <= edge <= 1 for edge in region)
        if not inside or x2 - x1 < _MIN_REGION or y2 - y1 < _MIN_REGION:
            raise ValueError(
                "a region is [left, top, right, bottom] as fractions of the upright picture from"
                " 0 to 1, left before right and top before bottom"
            )
        return region

    @field_validator("masks")
    @classmethod
    def _check_masks(cls, masks: tuple[Polygon, ...]) -> tuple[Polygon, ...]:
        for mask in masks:
            if not 3 <= len(mask) <= 256 or not all(
                0 <= edge <= 1 for point in mask for edge in point
            ):
                raise ValueError(
                    "a mask is a polygon of at least three points [x, y], fractions of the upright"
                    " picture from 0 to 1"
                )
        return masks


class DetectionSettings(Section):
    """When a camera's frames are searched for faces, and how closely."""

    detect_every: int = Field(default=1, ge=1, le=100)  # frames; between them, tracks are predicted
    motion: bool = True  # search rarely while nothing moves
    faces: Literal["near", "far", "auto"] = "auto"


class CameraSettings(ConnectionSettings, ViewSettings, DetectionSettings):
    """One camera; `edge_agent.capture.source.open_source` says what `source` may be."""

    name: Name
    source: str = Field(min_length=1)
    realtime: bool = False  # play a film at its own pace
    max_fps: float | None = Field(default=None, gt=0, le=1000)

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if self.transport == "udp" and not self.source.startswith("rtsp://"):
            raise ValueError("transport = 'udp' is for rtsp:// sources")
        if self.username is not None and "://" not in self.source:
            raise ValueError(
                "username and password_file are for network cameras (rtsp://, http://)"
            )
        if self.ca_file is not None and not self.source.startswith(("https://", "rtsps://")):
            raise ValueError("ca_file is for https:// and rtsps:// sources")
        return self
