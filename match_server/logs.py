"""Structured logs: one JSON object a line on standard error. Never keys, templates or pictures."""

import json
import logging
import logging.config
from datetime import UTC, datetime
from typing import Any

from shared.clock import rfc3339

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_TALKATIVE = ("aiobotocore", "botocore", "fsspec", "s3fs", "urllib3")


class JsonFormatter(logging.Formatter):
    """A record as one JSON object: time, level, message, and what was given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": rfc3339(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
        }
        entry |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)


def logging_config(level: str) -> dict[str, Any]:
    """For `logging.config`: everything of this process goes to standard error as JSON lines."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": JsonFormatter}},
        "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "json"}},
        "root": {"level": level, "handlers": ["console"]},
        "loggers": {
            # At DEBUG these write addresses and headers: a webhook's path, a storage's key.
            **{name: {"level": "INFO" if level == "DEBUG" else level} for name in _TALKATIVE},
            "alembic": {"level": "WARNING"},
            "gunicorn.error": {"level": "WARNING", "handlers": [], "propagate": True},
            "gunicorn.access": {"level": "WARNING", "handlers": [], "propagate": True},
        },
    }


def set_up_logging(level: str) -> None:
    """Let this process log as `logging_config` says."""
    logging.config.dictConfig(logging_config(level))
