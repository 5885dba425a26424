"""Logging to stderr, as text or as JSON, without secrets.

structlog renders every record. The modules of the service and its libraries log with the standard library.
"""

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
from typing import Any, TextIO

import structlog
from structlog.processors import JSONRenderer, format_exc_info
from structlog.stdlib import PositionalArgumentsFormatter, ProcessorFormatter
from structlog.typing import EventDict

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


class RedactFields:
    """A processor of structlog that redacts each field of a line. A value that is no number is redacted as text."""

    def __init__(self, redact: Redactor) -> None:
        self._redact = redact

    def __call__(self, _: Any, __: str, event: EventDict) -> EventDict:
        return {name: v if isinstance(v, int | float) else self._redact(str(v)) for name, v in event.items()}


def _name_fields(_: Any, __: str, event: EventDict) -> EventDict:
    """Return the fields of a line in their order: time, level, logger, message, those of the caller, any traceback."""
    record: logging.LogRecord = event.pop("_record")
    line = {
        "time": _timestamp(record.created),
        "level": record.levelname,
        "logger": record.name,
        "message": event.pop("event"),
    }
    last = {name: event.pop(key) for key, name in _LAST_FIELDS.items() if event.get(key)}
    return line | {name: value for name, value in event.items() if name not in _INTERNAL_FIELDS} | last


def _render_console(_: Any, __: str, event: EventDict) -> str:
    """Return `2025-11-24T08:09:45.634Z INFO service.cache Redis connected successfully`, and lines with any traceback."""
    last = [str(event.pop(name)) for name in _LAST_FIELDS.values() if name in event]
    first = [str(event.pop(name)) for name in ("time", "level", "logger", "message")]
    return "\n".join([" ".join([*first, *(f"{name}={value}" for name, value in event.items())]), *last])


_LAST_FIELDS = {"exception": "exception", "stack_info": "stack"}
_INTERNAL_FIELDS = {"_from_structlog", "exc_info", "stack_info"}


def formatter(log_format: str, redact: Redactor) -> logging.Formatter:
    """Return the formatter of all records, those of libraries included.

    Args:
        log_format: "json" for one object per line with time, level, logger, message and any traceback. "console" for text.
        redact: is applied to each field.
    """
    # In ASCII, because a reader may take U+2028 or U+0085 for the end of the line.
    render = JSONRenderer(ensure_ascii=True) if log_format == "json" else _render_console
    return ProcessorFormatter(processors=[format_exc_info, _name_fields, RedactFields(redact), render])


def configure(log_format: str, secrets: Iterable[str]) -> None:
    """Send all logging, that of the standard library and of structlog, to stderr.

    Args:
        log_format: "console" or "json".
        secrets: are never printed.
    """
    redact = Redactor(secrets)
    handler = _StderrHandler(_stderr())
    handler.setFormatter(formatter(log_format, redact))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for noisy in ("uvicorn", "uvicorn.error", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)

    structlog.configure(
        processors=[PositionalArgumentsFormatter(), ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
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
