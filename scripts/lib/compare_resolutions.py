"""Resolve each neighbour without the plugin and with it, and compare: `compare_resolutions.py PYTHON WHEEL [requirements]`.

`pip install --dry-run` reports what pip would install in an empty environment. The plugin disturbs nothing when pip finds a solution
that has the versions which pip takes without the plugin.

PYTHON is an interpreter that has pip. WHEEL is the plugin as it would be shipped; its extra `embedded` is resolved too.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

NEIGHBOURS = (
    "celery[redis]",
    "saq[redis]",
    "arq",
    "rq",
    "django-redis",
    "sqlalchemy[asyncio]",
    "psycopg[pool]",
    "tortoise-orm",
)
PARALLEL = 4


class Unresolvable(Exception):
    """pip finds no solution. The message is the end of its output."""


def main(python: Path, wheel: Path, *requirements: str) -> int:
    plugin = f"pytest-resilience[embedded] @ {wheel.as_uri()}"
    neighbours = requirements or NEIGHBOURS
    with ThreadPoolExecutor(PARALLEL) as threads:
        results = list(threads.map(lambda neighbour: compare(python, neighbour, plugin), neighbours))
    for neighbour, (version, problems) in zip(neighbours, results, strict=True):
        print(f"{neighbour} {version}: {'unchanged by the plugin' if not problems else 'CHANGED by the plugin'}")
        for problem in problems:
            print(f"    {problem}")
    return int(any(problems for _, problems in results))


def compare(python: Path, neighbour: str, plugin: str) -> tuple[str, list[str]]:
    """Return the neighbour's version, and a line for each difference that the plugin makes."""
    try:
        alone = resolve(python, neighbour)
    except Unresolvable as error:
        return "", [f"does not install without the plugin either: {error}"]
    version = alone.get(neighbour.partition("[")[0], "?")
    try:
        together = resolve(python, neighbour, plugin)
    except Unresolvable as error:
        return version, [str(error)]
    return version, differences(alone, together)


def differences(alone: dict[str, str], together: dict[str, str]) -> list[str]:
    """Return a line for each package that has another version with the plugin."""
    return [
        f"{name} {version} becomes {together.get(name, 'nothing')}"
        for name, version in sorted(alone.items())
        if together.get(name) != version
    ]


def resolve(python: Path, *requirements: str) -> dict[str, str]:
    """Return the versions that pip would install in an empty environment, by package.

    Raises:
        Unresolvable: pip finds no solution.
    """
    command: list[str | Path] = [python, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    command += ["--disable-pip-version-check", "--no-input", "--report", "-", *requirements]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    if completed.returncode != 0:
        lines = [line for line in completed.stderr.splitlines() if line.strip()]
        raise Unresolvable(" / ".join(lines[-6:]))
    installed = json.loads(completed.stdout)["install"]
    return {each["metadata"]["name"].lower().replace("_", "-"): each["metadata"]["version"] for each in installed}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]))
