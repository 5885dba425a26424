"""Measure the user time of a pytest run that does not use the plugin, relative to bare pytest.

python benchmarks/start.py [--rounds 30] [--json FILE]

Each row has an environment: bare pytest, each dependency of the plugin alone, the plugin, the plugin with `[embedded]`. The environments
are made again when pyproject.toml changes. The rows take turns, so that a busy machine slows all of them. On a quiet machine the ratio of
the medians and that of the best runs agree. On a busy machine the ratio of the best runs is more accurate.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = Path(f"{sys.prefix}-start")
GOAL = 1.5  # the plugin with [embedded], relative to bare pytest
BARE = "bare pytest"
WHOLE = "pytest-resilience[embedded]"
# Plugins to disable in the row of the whole, which shows their cost there.
WITHOUT = ("valkey", "anyio", "platformdirs", "pytest_resilience", "valkey anyio")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    pythons = environments()
    rows: dict[str, tuple[Path, list[str]]] = {name: (python, []) for name, python in pythons.items()}
    for names in WITHOUT:
        options = [word for name in names.split() for word in ("-p", f"no:{name}")]
        rows[f"{WHOLE} {' '.join(options)}"] = pythons[WHOLE], options
    times = measure(rows, arguments.rounds)
    bare, best = statistics.median(times[BARE]), min(times[BARE])
    print(f"{'one empty test, user time':64} {'median ms':>10} {'ratio':>6} {'best ms':>10} {'ratio':>6}")
    for name, values in times.items():
        middle, least = statistics.median(values), min(values)
        print(f"{name:64} {middle * 1000:10.0f} {middle / bare:6.2f} {least * 1000:10.0f} {least / best:6.2f}")
    print(f"goal for {WHOLE}: {GOAL}")
    if arguments.json:
        arguments.json.write_text(json.dumps(times))


def environments() -> dict[str, Path]:
    """Return the interpreter of each row's environment."""
    project = (ROOT / "pyproject.toml").read_bytes()
    wheel = build()
    data = tomllib.loads(project.decode())["project"]
    requirements = {BARE: ["pytest"]}
    extras = data["optional-dependencies"]
    for requirement in [*data["dependencies"], *extras["embedded"], *extras["sequences"]]:
        name = re.split(r"[^A-Za-z0-9._-]", requirement)[0]
        if name != "pytest":
            requirements[name] = ["pytest", requirement]
    requirements["pytest-resilience"] = [str(wheel)]
    requirements[WHOLE] = [f"{WHOLE} @ {wheel.as_uri()}"]
    return {
        name: environment(name, packages, hashlib.sha256(project).hexdigest())
        for name, packages in requirements.items()
    }


def build() -> Path:
    shutil.rmtree(ENVIRONMENTS / "dist", ignore_errors=True)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", ENVIRONMENTS / "dist", ROOT]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (wheel,) = (ENVIRONMENTS / "dist").glob("*.whl")
    return wheel


def environment(name: str, packages: list[str], stamp: str) -> Path:
    directory = ENVIRONMENTS / re.sub(r"[^a-z-]", "-", name)
    python, stamped = directory / "bin" / "python", directory / "stamp"
    if not stamped.exists() or stamped.read_text() != stamp:
        print(f"installing {name}", file=sys.stderr)
        shutil.rmtree(directory, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", directory], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, *packages], check=True)
        # Python 3.11 puts setuptools into each environment, and setuptools imports itself at each start.
        remove = [python, "-m", "pip", "uninstall", "--quiet", "--yes", "--disable-pip-version-check", "setuptools"]
        subprocess.run(remove, check=True)
        stamped.write_text(stamp)
    elif name.startswith("pytest-resilience"):
        install = [
            python,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--force-reinstall",
            "--no-deps",
        ]
        subprocess.run([*install, packages[0].rpartition(" ")[2]], check=True)
    return python


def measure(rows: dict[str, tuple[Path, list[str]]], rounds: int) -> dict[str, list[float]]:
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("PY", "COV", "VIRTUAL"))}
    with tempfile.TemporaryDirectory() as directory:
        test = Path(directory) / "test_one.py"
        test.write_text("def test_one():\n    pass\n")

        def once(python: Path, options: list[str]) -> float:
            command = [python, "-m", "pytest", "-q", *options, test]
            process = subprocess.Popen(command, env=keep, cwd=directory, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            assert process.returncode == 0, command
            return usage.ru_utime

        for row in rows.values():
            once(*row)  # caches the bytecode, as a first run does
        times: dict[str, list[float]] = {name: [] for name in rows}
        for _ in range(rounds):
            for name, row in rows.items():
                times[name].append(once(*row))
        return times


if __name__ == "__main__":
    main()
