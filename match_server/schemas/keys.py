"""API keys."""

from typing import Literal, Self

from pydantic import Field, model_validator

from match_server.schemas.base import ApiModel, Moment, Name, Text

Role = Literal["admin", "enroller", "searcher", "device", "viewer"]


class KeyCreate(ApiModel):
    role: Role
    name: Text = Field(default="unnamed", examples=["front door"])
    device: Name | None = Field(
        default=None,
        description="Role device, which needs it: the only device that the key may speak for.",
    )

    expires_at: Moment | None = Field(
        default=None, description="From then on the key is not valid."
    )

    @model_validator(mode="after")
    def _device_for_devices(self) -> Self:
        if self.device is not None and self.role != "device":
            raise ValueError("only a key of role `device` is tied to a device")
        if self.device is None and self.role == "device":
            raise ValueError(
                "a key of role `device` speaks for one device: say which (`device`), or let the "
                "box fetch its key with an enrollment code"
            )
        return self


class KeyView(ApiModel):
    id: str
    role: Role
    name: str
    device: str | None
    created_at: Moment
    revoked_at: Moment | None
    expires_at: Moment | None
    last_used_at: Moment | None = Field(description="Within about a minute; null: never.")


class KeyCreated(KeyView):
    key: str = Field(description="The key itself. It is shown this once and kept only as a hash.")
