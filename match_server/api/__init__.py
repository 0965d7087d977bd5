"""The HTTP API: routes, and what turns them into Flask views and the OpenAPI document."""
