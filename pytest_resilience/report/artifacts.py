"""The files that a run leaves for its users, in `.resilience/` of the rootdir. Git ignores the directory."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..redaction import scrubbed

if TYPE_CHECKING:
    from ..history import History

DIRECTORY = ".resilience"
MAX_NAME_CHARS = 100  # of a node id in the name of a file


def artifacts_dir(root: Path) -> Path:
    """Return the directory, which is made if it is missing."""
    path = root / DIRECTORY
    path.mkdir(exist_ok=True)
    ignore = path / ".gitignore"
    if not ignore.exists():
        ignore.write_text("# made by pytest-resilience\n*\n")
    return path


def save_logs(root: Path, test: str, logs: Mapping[str, str], *, attempt: int = 1) -> Path:
    """Write the logs of a failed test to one file, which replaces that of an earlier run.

    Args:
        root: the rootdir.
        test: the test's node id, which becomes the name of the file.
        logs: text by source, such as "service".
        attempt: the number of the attempt that failed, from 1 on. Each attempt has its own file.

    Returns:
        The file.
    """
    directory = artifacts_dir(root) / "logs"
    directory.mkdir(exist_ok=True)
    name = _file_name(test)
    file = directory / (f"{name}.log" if attempt == 1 else f"{name}-attempt-{attempt}.log")
    text = "".join(f"===== {source} =====\n{text.rstrip()}\n" for source, text in logs.items())
    file.write_text(scrubbed(text))  # a service may write its DATABASE_URL
    return file


def save_history(root: Path, worker: str, test: str, history: History) -> Path:
    """Write the history of a test to one file, with a JSON object a line.

    Workers of pytest-xdist write to directories of their own, so that none waits for another.

    Args:
        root: the rootdir.
        worker: the id of the xdist worker; "main" without xdist.
        test: the test's node id, which becomes the name of the file.
        history: the history.

    Returns:
        The file.
    """
    directory = artifacts_dir(root) / "history" / worker
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"{_file_name(test)}.jsonl"
    file.write_text("".join(_lines(record.to_json() for record in history.records)))
    return file


def _lines(records: Iterable[Mapping[str, object]]) -> Iterable[str]:
    return (f"{json.dumps(record, separators=(',', ':'))}\n" for record in records)


def _file_name(test: str) -> str:
    name = re.sub(r"[^\w.=-]+", "-", test)
    if len(name) > MAX_NAME_CHARS:
        name = f"{name[:MAX_NAME_CHARS]}-{hashlib.sha256(test.encode()).hexdigest()[:8]}"
    return name
