"""The log of a server: text or JSON lines on standard error, without anything of a request."""

import json
import logging
import sys
import time
import traceback
from pathlib import Path
from typing import Any

NAME = "flax_bigbird.server"
NUM_FRAMES = 4  # of an error that are logged


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON, with the fields that were logged as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        return json.dumps(entry | getattr(record, "fields", {}), ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """Writes a record as one line of text."""

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{key}={value}" for key, value in getattr(record, "fields", {}).items())
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        return f"{when} {record.levelname.lower()}: {record.getMessage()} {fields}".rstrip()


def describe(error: BaseException) -> dict[str, Any]:
    """Returns the type of an error and where it was raised, without its message.

    The message may hold a part of a request.
    """
    frames = traceback.extract_tb(error.__traceback__)[-NUM_FRAMES:]
    where = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames]
    return {"error": type(error).__name__, "where": " < ".join(reversed(where))}


def configure(log_format: str) -> logging.Logger:
    """Sets up the log of the server and of uvicorn, whose access log is off.

    Args:
      log_format: "text" or "json".
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    for name, level in ((NAME, logging.INFO), ("uvicorn.error", logging.CRITICAL)):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False
    return logging.getLogger(NAME)
