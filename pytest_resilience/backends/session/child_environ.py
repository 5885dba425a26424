"""The environment of the processes that a backend starts."""

from __future__ import annotations

import os

# Servers inherit nothing of the user's environment, so that a run does not depend on it.
SERVER_ENVIRON = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


def python_environ() -> dict[str, str]:
    """Return the variables with the directories of the shared library of this Python, which it needs to start again."""
    return {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH") if name in os.environ}
