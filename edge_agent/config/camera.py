"""Settings of one camera: where its pictures come from, and what of them is looked at."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from edge_agent.capture.image_region import Point, Rotation, View
from edge_agent.capture.opencv_source import Asked
from edge_agent.config.secrets import read_secret
from edge_agent.vision.face_search import Reach
from shared.errors import ConfigurationError
from shared.files import readable
from shared.wire.messages import Name

Polygon = tuple[Point, ...]
_LEAST_REGION = 0.02  # of the picture's width or height


class CameraSettings(BaseModel):
    """One camera; `source` as `edge_agent.capture.source.open_source` reads it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    source: str = Field(min_length=1)
    # What the camera is asked for.
    width: int | None = Field(default=None, ge=16, le=16_384)
    height: int | None = Field(default=None, ge=16, le=16_384)
    fps: float | None = Field(default=None, gt=0, le=1000)
    transport: Literal["tcp", "udp"] = "tcp"
    username: str | None = Field(default=None, min_length=1, max_length=255)
    password_file: Path | None = None
    ca_file: Annotated[Path | None, AfterValidator(readable)] = None
    realtime: bool = False
    # What of its pictures is looked at.
    rotate: Rotation = 0
    region: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    masks: Annotated[tuple[Polygon, ...], Field(max_length=64)] = ()
    # How often and how closely.
    max_fps: float | None = Field(default=None, gt=0, le=1000)
    detect_every: int = Field(default=1, ge=1, le=100)
    motion: bool = True
    faces: Reach = "auto"

    @field_validator("region")
    @classmethod
    def _region_has_area(
        cls, region: tuple[float, float, float, float]
    ) -> tuple[float, float, float, float]:
        x1, y1, x2, y2 = region
        inside = all(0 <= edge <= 1 for edge in region)
        if not inside or x2 - x1 < _LEAST_REGION or y2 - y1 < _LEAST_REGION:
            raise ValueError(
                "a region is [left, top, right, bottom] as fractions of the upright picture from"
                " 0 to 1, left before right and top before bottom"
            )
        return region

    @field_validator("masks")
    @classmethod
    def _masks_are_polygons(cls, masks: tuple[Polygon, ...]) -> tuple[Polygon, ...]:
        for mask in masks:
            if not 3 <= len(mask) <= 256 or not all(
                0 <= edge <= 1 for point in mask for edge in point
            ):
                raise ValueError(
                    "a mask is a polygon of at least three points [x, y], fractions of the upright"
                    " picture from 0 to 1"
                )
        return masks

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if (self.width is None) != (self.height is None):
            raise ValueError("give width and height, or neither")
        if (self.username is None) != (self.password_file is None):
            raise ValueError("give username and password_file, or neither")
        if self.transport == "udp" and not self.source.startswith("rtsp://"):
            raise ValueError("transport = 'udp' is for rtsp:// sources")
        if self.username is not None and "://" not in self.source:
            raise ValueError(
                "username and password_file are for network cameras (rtsp://, http://)"
            )
        if self.ca_file is not None and not self.source.startswith(("https://", "rtsps://")):
            raise ValueError("ca_file is for https:// and rtsps:// sources")
        return self

    @property
    def asked(self) -> Asked:
        """What is asked of the camera. ConfigurationError when its password cannot be read."""
        size = None if self.width is None or self.height is None else (self.width, self.height)
        login = None
        if self.username is not None:
            password = read_secret(self.password_file)
            if password is None:
                raise ConfigurationError(f"camera {self.name}: password_file is missing")
            login = (self.username, password)
        return Asked(size, self.fps, self.transport, login, self.ca_file)

    @property
    def view(self) -> View:
        return View(self.rotate, self.masks, self.region)
