"""Show that faults by statement find bugs of released libraries: each test fails with one version, and passes with a later one.

Each version is installed in an environment of its own, with this checkout, and its test of benchmarks/detection/libraries/ runs there.
The exit code is 1 if a test has another result than expected.

scripts/bench library_bugs [--directory DIR] [LIBRARY ...]

With --directory the environments remain there.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "benchmarks" / "detection" / "libraries"
TIMEOUT = 120.0  # seconds for one test
INSTALL = 600.0  # seconds for one environment


@dataclass(frozen=True)
class Bug:
    """A bug of a released library.

    Args:
        library: its name on PyPI, and that of the test without `test_`.
        effect: what a user sees.
        source: the issue or the change.
        sign: a part of the failure that shows the bug.
        broken: the requirement with the bug.
        mended: the requirement without it; None if no release has mended it yet.
    """

    library: str
    effect: str
    source: str
    sign: str
    broken: str
    mended: str | None

    @property
    def test(self) -> str:
        return f"test_{self.library.replace('-', '_')}.py"


BUGS = (
    Bug(
        "redis-py",
        "a command gets the reply of another one, which was cancelled",
        "redis/redis-py#2624",
        "assert b'1' == b'2'",
        "redis==4.5.1",
        "redis==4.5.5",
    ),
    Bug(
        "cashews",
        "a lock stays until it expires, after Redis has lost its scripts",
        "Krukov/cashews#387",
        "assert not True",
        "cashews[redis]==7.4.3",
        "cashews[redis]==7.4.4",
    ),
    Bug(
        "asyncpg",
        "a pool hangs for ever after a statement that timed out on a silent network",
        "MagicStack/asyncpg#1307",
        "TimeoutError",
        "asyncpg==0.31.0",
        "asyncpg==0.32.0",
    ),
    Bug(
        "databases",
        "a pool loses the connection of each transaction whose COMMIT fails",
        "encode/databases#498",
        "TimeoutError",
        "databases[asyncpg]==0.9.0",
        None,
    ),
)


def environment(directory: Path, requirement: str) -> Path:
    """Make an environment with a requirement and this checkout, if it is not there yet. Return its interpreter."""
    python = directory / "bin" / "python"
    if not python.exists():
        run = ["uv", "venv", "--quiet", "--python", sys.executable, str(directory)]
        subprocess.run(run, check=True, timeout=INSTALL)
        install = ["uv", "pip", "install", "--quiet", "--python", str(python)]
        subprocess.run([*install, f"{ROOT}[embedded]", "pytest-asyncio", requirement], check=True, timeout=INSTALL)
    return python


def passes(python: Path, bug: Bug) -> bool:
    """Run a test. Return True if it passes, and False if it fails with the sign of the bug.

    Raises:
        RuntimeError: it did not run, or failed in another way.
    """
    with tempfile.TemporaryDirectory() as directory:
        shutil.copy(TESTS / bug.test, directory)
        (Path(directory) / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
        command = [
            str(python),
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--resilience-backend=embedded",
            bug.test,
        ]
        outcome = subprocess.run(command, check=False, cwd=directory, capture_output=True, text=True, timeout=TIMEOUT)
    if outcome.returncode and (outcome.returncode != 1 or bug.sign not in outcome.stdout):
        raise RuntimeError(f"{bug.test} did not show the bug:\n{outcome.stdout}{outcome.stderr}")
    return outcome.returncode == 0


def try_version(bug: Bug, requirement: str | None, directory: Path) -> str:
    """Return a version and the result of the test with it."""
    if requirement is None:
        return "none yet"
    name, _, version = requirement.partition("==")
    python = environment(directory / f"{name.partition('[')[0]}-{version}", requirement)
    return f"{version}: {'passes' if passes(python, bug) else 'fails'}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("libraries", nargs="*", help=f"of {', '.join(bug.library for bug in BUGS)} (all)")
    parser.add_argument("--directory", type=Path, help="where the environments are made (default: removed at the end)")
    options = parser.parse_args()
    wrong = 0
    print("| library | bug | with the bug | without |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as temporary:
        directory = (options.directory or Path(temporary)).resolve()
        for bug in BUGS:
            if options.libraries and bug.library not in options.libraries:
                continue
            before, after = (try_version(bug, each, directory) for each in (bug.broken, bug.mended))
            wrong += not before.endswith("fails") or after.endswith("fails")
            print(f"| {bug.library} | {bug.effect} ({bug.source}) | {before} | {after} |", flush=True)
    print(f"load of the machine at the end: {os.getloadavg()[0]:.1f}", file=sys.stderr)
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
