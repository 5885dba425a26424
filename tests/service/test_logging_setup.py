"""Log lines in both formats, without secrets."""

import json
import logging
import subprocess
import sys

import pytest

from service.logging_setup import ConsoleFormatter, JsonFormatter, Redactor


def record(message, *args, error=None):
    info = (type(error), error, None) if error else None
    return logging.LogRecord("service.x", logging.WARNING, __file__, 1, message, args, info)


@pytest.mark.parametrize("formatter", [ConsoleFormatter, JsonFormatter])
def test_known_secrets_and_text_that_looks_like_credentials_are_redacted(formatter):
    line = formatter(Redactor(["s3cret-token"])).format(
        record(
            "to %s with %s, Authorization: Bearer %s, password=%s",
            "redis://user:pw@host:6379/0",
            "s3cret-token",
            "abc.def",
            "hunter2",
            error=OSError("postgresql://app:p@ss@db refused s3cret-token"),
        )
    )
    for secret in ("s3cret-token", "user:pw", "abc.def", "hunter2", "app:p"):
        assert secret not in line
    assert "host:6379" in line


def test_json_lines_hold_the_message_unchanged():
    line = json.loads(JsonFormatter(Redactor([])).format(record('[Memory] "High": %.2f%%\nä', 90.214)))
    assert line["message"] == '[Memory] "High": 90.21%\nä'
    assert (line["level"], line["logger"]) == ("WARNING", "service.x")
    assert line["time"].endswith("Z")


def test_console_lines_hold_time_level_logger_and_message():
    line = ConsoleFormatter(Redactor([])).format(record("Redis connected successfully"))
    assert line.split(" ", 1)[1] == "WARNING service.x Redis connected successfully"


def test_very_short_secrets_are_not_redacted_as_plain_text():
    assert Redactor(["a"])("a banana") == "a banana"


def test_tracebacks_are_in_json_lines():
    try:
        raise ValueError("no")
    except ValueError:
        entry = record("oops")
        entry.exc_info = sys.exc_info()
    assert "ValueError: no" in json.loads(JsonFormatter(Redactor([])).format(entry))["exception"]


BROKEN = """
import asyncio, logging, sys, threading, warnings
from service import logging_setup
logging_setup.configure("json", ["s3cret"])
log = logging.getLogger("service")
log.info("two\\nlines\\u2028and\\x85more, half a \\ud800 pair and s3cret")
log.info("%d", "no number")
try:
    raise ValueError("s3cret\\nin two lines")
except ValueError:
    log.exception("with a traceback", stack_info=True)
warnings.warn("a warning about s3cret")
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
class Odd:
    def __del__(self):
        raise OSError("s3cret in a finalizer")
Odd()
raise SystemError("s3cret at the end")
"""


def test_each_line_of_a_json_log_parses_whatever_its_origin():
    run = subprocess.run([sys.executable, "-c", BROKEN], capture_output=True, text=True, encoding="utf-8")
    assert run.returncode != 0
    lines = [json.loads(line) for line in run.stderr.splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    assert "s3cret" not in run.stderr
    raised = [line["exception"].splitlines()[-1] for line in lines if "exception" in line]
    assert [each.partition(":")[0] for each in raised] == [
        "in two lines",
        "ZeroDivisionError",
        "OSError",
        "SystemError",
    ]
    assert [line["logger"] for line in lines].count("service.logging_setup") == 1, (
        "a record that cannot be formatted is named"
    )
    assert [line["logger"] for line in lines].count("py.warnings") == 1
