"""The base of all settings models."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One section of the settings. Unknown keys are refused, values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)
