"""The schemas of requests and responses, as pydantic models."""
