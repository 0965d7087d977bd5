"""Structured logs: a JSON object a line on standard error; never keys, templates or pictures."""

import json
import logging
import logging.config
import os
from datetime import UTC, datetime
from typing import Any

from shared.clock import rfc3339

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_TALKATIVE = ("aiobotocore", "botocore", "fsspec", "s3fs", "urllib3")

_STANDARD_ERROR = 2
_ENCODER = json.JSONEncoder(default=str, ensure_ascii=False)


class LineHandler(logging.Handler):
    """Writes each record to standard error at once, without holding a lock.

    A write releases the interpreter's lock, so with a lock of its own the next thread that logs
    would wait for both: with 32 clients that cost a quarter of all searches a second. The system
    keeps lines whole, in a file and, up to 4 KiB, in a pipe.
    """

    def handle(self, record: logging.LogRecord) -> bool:
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = f"{self.format(record)}\n".encode(errors="backslashreplace")
            while line:
                line = line[os.write(_STANDARD_ERROR, line) :]
        except Exception:
            self.handleError(record)


class JsonFormatter(logging.Formatter):
    """Formats a record as a JSON object: time, level, message, and the values of `extra`."""

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
        return _ENCODER.encode(entry)


def logging_config(level: str) -> dict[str, Any]:
    """Returns the configuration for `logging.config`: JSON lines on standard error."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": JsonFormatter}},
        "handlers": {"console": {"()": LineHandler, "formatter": "json"}},
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
    """Sets up logging by `logging_config`, without what these logs do not show.

    To look for the calling line takes a third of the time of an entry.
    """
    logging._srcfile = None  # see "Optimization" in the logging HOWTO
    logging.logThreads = logging.logMultiprocessing = False
    logging.config.dictConfig(logging_config(level))
