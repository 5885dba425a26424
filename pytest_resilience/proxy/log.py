"""Log lines in Toxiproxy's form, one JSON object per line."""

from __future__ import annotations

from collections.abc import Callable

from .event_loop import format_utc

LEVELS = ("trace", "debug", "info", "warn", "error", "fatal", "panic")


def _quoted(text: str) -> str:
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    import json  # not at the top: the first line is out before anything heavy is imported

    return json.dumps(text)


class Log:
    """A log that writes the lines of a high enough level.

    Args:
        level: one of LEVELS; "" writes everything. Any other word is reported once, as an error, and then ignored.
        write: takes one line with its newline.

    Attributes:
        infos, errors: True if such lines are written. Check this before you build a line on a hot path.
    """

    __slots__ = ("_lowest", "_write", "errors", "infos")

    def __init__(self, level: str, write: Callable[[str], object]) -> None:
        self._write = write
        word = level.lower()
        self._lowest = LEVELS.index(word) if word in LEVELS else 0
        self.infos = self._lowest <= LEVELS.index("info")
        self.errors = self._lowest <= LEVELS.index("error")
        if word and word not in LEVELS:
            self.error("unknown LOG_LEVEL", err=f"Unknown Level String: '{level}', defaulting to NoLevel")

    def info(self, message: str, **fields: str) -> None:
        self._line("info", message, fields)

    def warning(self, message: str, **fields: str) -> None:
        self._line("warn", message, fields)

    def error(self, message: str, **fields: str) -> None:
        self._line("error", message, fields)

    def announce(self, message: str, **fields: str) -> None:
        """Write an info line at any level, because a parent process waits for it."""
        self._line("info", message, fields, always=True)

    def _line(self, level: str, message: str, fields: dict[str, str], *, always: bool = False) -> None:
        if not always and LEVELS.index(level) < self._lowest:
            return
        parts = [f'"level":"{level}"', *(f'"{name}":{_quoted(value)}' for name, value in fields.items())]
        parts.append(f'"time":"{format_utc()}"')
        parts.append(f'"message":{_quoted(message)}')
        self._write("{" + ",".join(parts) + "}\n")
