"""Log lines in both formats, without secrets."""

import json
import logging
import subprocess
import sys

import pytest

from service.logging_setup import Redactor, formatter


def record(message, *args, error=None):
    info = (type(error), error, None) if error else None
    return logging.LogRecord("service.x", logging.WARNING, __file__, 1, message, args, info)


def line_of(log_format, entry, *secrets):
    return formatter(log_format, Redactor(secrets)).format(entry)


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_known_secrets_and_text_that_looks_like_credentials_are_redacted(log_format):
    line = line_of(
        log_format,
        record(
            "to %s with %s, Authorization: Bearer %s, password=%s",
            "redis://user:pw@host:6379/0",
            "s3cret-token",
            "abc.def",
            "hunter2",
            error=OSError("postgresql://app:p@ss@db refused s3cret-token"),
        ),
        "s3cret-token",
    )
    for secret in ("s3cret-token", "user:pw", "abc.def", "hunter2", "app:p"):
        assert secret not in line
    assert "host:6379" in line


def test_json_lines_hold_the_message_unchanged():
    line = json.loads(line_of("json", record('[Memory] "High": %.2f%%\nä', 90.214)))
    assert line["message"] == '[Memory] "High": 90.21%\nä'
    assert (line["level"], line["logger"]) == ("WARNING", "service.x")
    assert line["time"].endswith("Z")


def test_console_lines_hold_time_level_logger_and_message():
    line = line_of("console", record("Redis connected successfully"))
    assert line.split(" ", 1)[1] == "WARNING service.x Redis connected successfully"


def test_very_short_secrets_are_not_redacted_as_plain_text():
    assert Redactor(["a"])("a banana") == "a banana"


def test_tracebacks_are_in_json_lines():
    try:
        raise ValueError("no")
    except ValueError:
        entry = record("oops")
        entry.exc_info = sys.exc_info()
    assert "ValueError: no" in json.loads(line_of("json", entry))["exception"]


def test_a_traceback_follows_a_console_line():
    try:
        raise ValueError("no")
    except ValueError:
        entry = record("oops")
        entry.exc_info, entry.stack_info = sys.exc_info(), "Stack (most recent call last):"
    first, *others = line_of("console", entry).splitlines()
    assert first.endswith(" WARNING service.x oops")
    assert others[0] == "Traceback (most recent call last):"
    assert others[-2:] == ["ValueError: no", "Stack (most recent call last):"]


STRUCTLOG = """
import sys, structlog
from service import logging_setup
logging_setup.configure(sys.argv[1], ["s3cret"])
log = structlog.get_logger("service.x").bind(campaign=7)
log.info("sent %d of %d", 1, 2, token=["s3cret"])
"""


def test_a_logger_of_structlog_adds_fields():
    def run(log_format):
        command = [sys.executable, "-c", STRUCTLOG, log_format]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr

    line = json.loads(run("json"))
    assert {"level": "INFO", "logger": "service.x", "message": "sent 1 of 2", "campaign": 7}.items() <= line.items()
    assert line["token"] == "['***']"
    assert run("console").rstrip().endswith(" INFO service.x sent 1 of 2 campaign=7 token=['***']")


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
