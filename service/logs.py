"""Log lines: to stderr, for people or as JSON, and never with a secret in them."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TextIO

_CREDENTIALS = (
    (re.compile(r"(?<=://)[^\s/@'\"]*:[^\s/@'\"]*@"), "***@"),
    (re.compile(r"(?i)(bearer\s+)[^\s'\",]+"), r"\1***"),
    (re.compile(r"(?i)((?:password|passwd|token|secret)['\"]?\s*[=:]\s*['\"]?)[^\s'\",&]+"), r"\1***"),
)
_SHORTEST_SECRET = 4  # shorter ones are covered by the patterns; as plain text they would eat half the log


class Redaction:
    """Takes the given secrets, and whatever looks like credentials, out of a text."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = sorted({s for s in secrets if len(s) >= _SHORTEST_SECRET}, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        for pattern, replacement in _CREDENTIALS:
            text = pattern.sub(replacement, text)
        return text


class ConsoleFormatter(logging.Formatter):
    """`2025-11-24T08:09:45.634Z INFO service.cache Redis connected successfully`."""

    def __init__(self, redact: Redaction) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")
        self._redact = redact

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802  (logging's name)
        return _timestamp(record.created)

    def format(self, record: logging.LogRecord) -> str:
        return self._redact(super().format(record))


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message and, if there is one, the traceback."""

    def __init__(self, redact: Redaction) -> None:
        super().__init__()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _timestamp(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": self._redact(record.getMessage()),
        }
        if record.exc_info:
            line["exception"] = self._redact(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


def configure(log_format: str, secrets: Iterable[str]) -> None:
    """Send all logging to stderr in the given format ("console" or "json"), redacted."""
    redact = Redaction(secrets)
    handler = logging.StreamHandler(_stderr())
    handler.setFormatter(JsonFormatter(redact) if log_format == "json" else ConsoleFormatter(redact))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for noisy in ("uvicorn", "uvicorn.error", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _stderr() -> TextIO:
    """A stream of our own: memory.py may point descriptor 2 elsewhere for a moment while it reads the heap's figures."""
    try:
        return os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    except OSError:
        return sys.stderr


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
