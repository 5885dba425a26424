"""The files that a run leaves on purpose: `.resilience/` in the rootdir, which keeps itself out of git."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from ..redaction import scrubbed

DIRECTORY = ".resilience"
MAX_NAME_CHARS = 100  # characters of a file's name that come from its test's


def artifacts_dir(root: Path) -> Path:
    """The folder, made when needed."""
    path = root / DIRECTORY
    path.mkdir(exist_ok=True)
    ignore = path / ".gitignore"
    if not ignore.exists():
        ignore.write_text("# made by pytest-resilience\n*\n")
    return path


def save_logs(root: Path, test: str, logs: Mapping[str, str], *, attempt: int = 1) -> Path:
    """Write the logs of a failed test to one file, in the place of an earlier run's.

    Args:
        root: the rootdir.
        test: the test's node id; its words make the file's name.
        logs: text by source, such as "service".
        attempt: which attempt of the test failed; each has a file of its own.

    Returns:
        The file.
    """
    place = artifacts_dir(root) / "logs"
    place.mkdir(exist_ok=True)
    name = re.sub(r"[^\w.=-]+", "-", test)
    if len(name) > MAX_NAME_CHARS:
        name = f"{name[:MAX_NAME_CHARS]}-{hashlib.sha256(test.encode()).hexdigest()[:8]}"
    file = place / (f"{name}.log" if attempt == 1 else f"{name}-attempt-{attempt}.log")
    text = "".join(f"===== {source} =====\n{text.rstrip()}\n" for source, text in logs.items())
    file.write_text(scrubbed(text))  # a service may write its DATABASE_URL
    return file
