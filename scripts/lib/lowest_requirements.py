"""Print the requirements of `scripts/lowest`, which have each dependency at its lower bound.

The bounds are those of pyproject.toml. A release that is older than the running Python may not install or run on it. The first release
that supports that Python takes its place.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = ("embedded", "sequences")  # those of the plugin; the rest are for the service and for this repository

# Clients that tests of the plugin use as users do. The plugin does not depend on them; these are the oldest releases that are tested.
CLIENTS = {"asyncpg": "0.29.0", "redis": "5.0.0"}
# The first release with support for a Python, where the lower bound is older than that Python.
SINCE = {
    "asyncpg": {(3, 13): "0.30.0", (3, 14): "0.31.0"},
    "anyio": {(3, 14): "4.11.0"},
    "pytest": {(3, 14): "8.4.2"},
}
TOOLS = ("pytest-asyncio", "pytest-xdist", "trustme", "PyYAML")  # the newest release that fits


def bounds(project: Path = ROOT / "pyproject.toml") -> dict[str, str]:
    """Return the lower bound of each dependency of the plugin and of its extras.

    Raises:
        ValueError: a dependency has no lower bound.
    """
    data = tomllib.loads(project.read_text())["project"]
    wanted = [*data["dependencies"], *(each for extra in EXTRAS for each in data["optional-dependencies"][extra])]
    found = {}
    for requirement in wanted:
        match = re.match(r"([A-Za-z0-9._-]+)\s*>=\s*([0-9][0-9a-z.]*)", requirement)
        if match is None:
            raise ValueError(f"{requirement!r} should begin with a name and a lower bound, such as 'httpx>=0.25'")
        found[match[1].lower()] = match[2]
    return found


def lowest(python: tuple[int, int]) -> dict[str, str]:
    """Return the version of each package to install on this Python."""
    pinned = bounds() | CLIENTS
    for name, since in SINCE.items():
        newer = [version for first, version in sorted(since.items()) if python >= first]
        if newer:
            pinned[name] = newer[-1]
    return pinned


def main() -> None:
    for name, version in lowest(sys.version_info[:2]).items():
        print(f"{name}=={version}")
    print("\n".join(TOOLS))


if __name__ == "__main__":
    main()
