"""Logging to stderr, as text or as JSON, without secrets."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from types import TracebackType
from typing import TextIO

_CREDENTIAL_PATTERNS = (
    (re.compile(r"(?<=://)[^\s/@'\"]*:[^\s/@'\"]*@"), "***@"),
    (re.compile(r"(?i)(bearer\s+)[^\s'\",]+"), r"\1***"),
    (re.compile(r"(?i)((?:password|passwd|token|secret)['\"]?\s*[=:]\s*['\"]?)[^\s'\",&]+"), r"\1***"),
)
_MIN_SECRET_LENGTH = 4  # as plain text a shorter secret would match half the log; the patterns cover it


class Redactor:
    """A function that replaces secrets, and anything that looks like credentials, by `***`."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = sorted({s for s in secrets if len(s) >= _MIN_SECRET_LENGTH}, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        for pattern, replacement in _CREDENTIAL_PATTERNS:
            text = pattern.sub(replacement, text)
        return text


class ConsoleFormatter(logging.Formatter):
    """`2025-11-24T08:09:45.634Z INFO service.cache Redis connected successfully`."""

    def __init__(self, redact: Redactor) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")
        self._redact = redact

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802  (logging's name)
        return _timestamp(record.created)

    def format(self, record: logging.LogRecord) -> str:
        return self._redact(super().format(record))


class JsonFormatter(logging.Formatter):
    """One JSON object per line, with time, level, logger, message and any traceback."""

    def __init__(self, redact: Redactor) -> None:
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
        if record.stack_info:
            line["stack"] = self._redact(record.stack_info)
        return json.dumps(line)  # in ASCII, because a reader may take U+2028 or U+0085 for the end of the line


def configure(log_format: str, secrets: Iterable[str]) -> None:
    """Send all logging to stderr in the given format ("console" or "json"), redacted."""
    redact = Redactor(secrets)
    handler = _StderrHandler(_stderr())
    handler.setFormatter(JsonFormatter(redact) if log_format == "json" else ConsoleFormatter(redact))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for noisy in ("uvicorn", "uvicorn.error", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)

    logging.captureWarnings(True)
    sys.excepthook = _on_exception
    threading.excepthook = _on_thread_exception
    sys.unraisablehook = _on_unraisable


def format_start_error(log_format: str, message: str) -> str:
    """Return the line that reports a failed start, in the format that the log would have had."""
    if log_format != "json":
        return f"service: {message}"
    return json.dumps({"time": _timestamp(time.time()), "level": "CRITICAL", "logger": "service", "message": message})


class _StderrHandler(logging.StreamHandler[TextIO]):
    """A handler that logs one line for a record that cannot be formatted. `logging` prints a raw traceback instead."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging's name)
        with contextlib.suppress(Exception):
            message = f"a log record of {record.name} could not be formatted ({sys.exc_info()[1].__class__.__name__})"
            self.stream.write(
                self.format(logging.LogRecord("service.logging_setup", logging.ERROR, "", 0, message, (), None)) + "\n"
            )


def _on_exception(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    logging.getLogger("service").critical("uncaught exception: the process ends", exc_info=(kind, error, traceback))


def _on_thread_exception(arguments: threading.ExceptHookArgs) -> None:
    error = arguments.exc_value or arguments.exc_type()
    logging.getLogger("service").error(
        "uncaught exception in a thread", exc_info=(type(error), error, arguments.exc_traceback)
    )


def _on_unraisable(arguments: sys.UnraisableHookArgs) -> None:
    error = arguments.exc_value or arguments.exc_type()
    message = arguments.err_msg or "Exception ignored in"
    logging.getLogger("service").error(
        "%s: %r", message, arguments.object, exc_info=(type(error), error, arguments.exc_traceback)
    )


def _stderr() -> TextIO:
    """Return a stream on a duplicate of descriptor 2, which memory.py redirects while it reads the heap's statistics."""
    try:
        return os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    except OSError:
        return sys.stderr


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
