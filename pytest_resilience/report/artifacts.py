"""The files that a run leaves for its users, in `.resilience/` of the rootdir. Git ignores the directory."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from ..history_file import HistoryFile
from ..redaction import scrubbed

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
    file = directory / f"{_file_name(test, attempt)}.log"
    text = "".join(f"===== {source} =====\n{text.rstrip()}\n" for source, text in logs.items())
    file.write_text(scrubbed(text))  # a service may write its DATABASE_URL
    return file


def open_history(root: Path, directory: str, worker: str, test: str, *, attempt: int = 1) -> HistoryFile | None:
    """Return the file to which the history of a test is written, or None for none. It is made at the first operation.

    Workers of pytest-xdist write to directories of their own, so that none waits for another.

    Args:
        root: the rootdir.
        directory: the directory of histories, relative to the rootdir, or "off".
        worker: the id of the xdist worker; "main" without xdist.
        test: the test's node id, which becomes the name of the file.
        attempt: the number of the attempt, from 1 on. Each attempt has its own file.
    """
    if directory == "off":
        return None
    file = root / directory / worker / f"{_file_name(test, attempt)}.jsonl"
    ours = root / DIRECTORY in file.parents
    name = file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)
    return HistoryFile(file, prepare=functools.partial(artifacts_dir, root) if ours else None, name=name)


def save_replay(root: Path, test: str, digest: str, text: str) -> Path:
    """Write a replay file, which replaces one of the same arguments.

    Args:
        root: the rootdir.
        test: the name of the test, which begins the name of the file.
        digest: the hexadecimal digest of the arguments, of which 8 digits end it.
        text: the contents.

    Returns:
        The file.
    """
    directory = artifacts_dir(root) / "replays"
    directory.mkdir(exist_ok=True)
    file = directory / f"{_file_name(test, 1).strip('-')}-{digest[:8]}.json"
    file.write_text(text, encoding="utf-8")
    return file


def _file_name(test: str, attempt: int) -> str:
    name = re.sub(r"[^\w.=-]+", "-", test)
    if len(name) > MAX_NAME_CHARS:
        name = f"{name[:MAX_NAME_CHARS]}-{hashlib.sha256(test.encode()).hexdigest()[:8]}"
    return name if attempt == 1 else f"{name}-attempt-{attempt}"
