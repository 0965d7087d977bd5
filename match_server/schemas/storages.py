"""Storages: places for photos besides the data folder."""

from typing import Annotated

from pydantic import Field

from match_server.schemas.base import ApiModel, Moment, Name, Written


class StorageCreate(ApiModel):
    name: Name = Field(examples=["archive"])
    uri: Annotated[str, Field(min_length=6, max_length=1000)] = Field(
        description="`file:///folder`, or `s3://bucket/prefix` of anything that speaks S3. Keys "
        "and the endpoint come from the server's environment (AWS_ACCESS_KEY_ID, "
        "AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL), never from this request.",
        examples=["s3://photos/muster"],
    )


class StorageView(ApiModel):
    name: str
    uri: str
    images: int = Field(description="Photos in it.")
    created_at: Moment


class StorageWritten(StorageView, Written):
    pass


class StorageRemoved(Written):
    name: str
