"""Run the tests of library_bugs/ with a released version of a library that has a bug, and with one that has the fix.

scripts/bench library_bugs [--times 1] [--environments DIRECTORY] [names]

Each version gets an environment of its own with this checkout, made by uv from PyPI. A test must fail with the cause in its message in
each run with the bug, and pass in each run with the fix. The output is the table of docs/library-bugs.md, and behind it that of
docs/statements.md with other columns.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "benchmarks" / "library_bugs"
TIMEOUT = 120.0  # seconds for one run of a test; most take three
MAX_MESSAGE_CHARS = 160


@dataclass(frozen=True)
class Bug:
    """A bug of a library.

    Args:
        test: the file, without "test_" and ".py".
        library: the name on PyPI, with its extras.
        buggy: a version with the bug.
        fixed: a version with the fix; None if no release has it yet.
        what: the bug.
        cause: the part of the message that names the cause.
        issue: the report of the bug, as "owner/repository#number" of GitHub, as the number of a CVE, or "".
        more: further requirements.
    """

    test: str
    library: str
    buggy: str
    fixed: str | None
    what: str
    cause: str
    issue: str
    more: tuple[str, ...] = ()


BINARY = ("psycopg[binary]==3.3.4",)
BUGS = (
    Bug(
        "redis_get",
        "redis",
        "4.5.3",
        "4.5.5",
        "A cancelled command leaves its answer to the next command.",
        "the next operation returned b'first' instead of b'second'",
        "CVE-2023-28859",
    ),
    Bug(
        "redis_pipeline",
        "redis",
        "4.5.2",
        "4.5.5",
        "A cancelled pipeline leaves its answers to the next command.",
        "the next operation returned b'OK' instead of b'second'",
        "CVE-2023-28858",
    ),
    Bug(
        "redis_watch",
        "redis",
        "8.0.0",
        "8.1.0",
        "A cancellation during UNWATCH costs the pool a connection.",
        "1 of 2 connections can be used",
        "redis/redis-py#4121",
    ),
    Bug(
        "redis_blocking_pool",
        "redis",
        "5.0.1",
        "5.0.2",
        "A cancelled caller costs BlockingConnectionPool a connection.",
        "1 of 2 connections can be used",
        "redis/redis-py#3056",
    ),
    Bug(
        "redis_pubsub",
        "redis",
        "4.2.2",
        "4.3.0",
        "A subscriber is deaf for ever after its connection was reset.",
        "the answer was not true within 5 s after the heal",
        "redis/redis-py#2089",
    ),
    Bug(
        "psycopg_pool_queue",
        "psycopg_pool",
        "3.1.6",
        "3.1.7",
        "A task that is cancelled in the queue of the pool gets a connection and loses it.",
        "the answer was not true within 5 s after the heal",
        "psycopg/psycopg#503",
        ("psycopg[binary]==3.1.8",),
    ),
    Bug(
        "psycopg_pool_check",
        "psycopg_pool",
        "3.2.7",
        "3.3.3",
        "A cancellation during the check of a connection costs the pool a connection.",
        "1 of 2 connections can be used",
        "psycopg/psycopg#1208",
        BINARY,
    ),
    Bug(
        "psycopg_pool_status",
        "psycopg_pool",
        "3.2.5",
        "3.2.6",
        "A check that fails in a transaction costs the pool a connection.",
        "the answer was not true during postgres.on('select'",
        "psycopg/psycopg#1014",
        BINARY,
    ),
    Bug(
        "psycopg_executemany",
        "psycopg",
        "3.2.9",
        "3.2.10",
        "A cancelled executemany() leaves the connection in pipeline mode.",
        "when it ran again",
        "psycopg/psycopg#1005",
        ("psycopg[binary]",),
    ),
    Bug(
        "psycopg_execute",
        "psycopg",
        "3.1.8",
        "3.2.4",
        "A cancelled statement leaves the connection busy.",
        "another command is already in progress",
        "",
        ("psycopg[binary]",),
    ),
    Bug(
        "httpcore",
        "httpcore",
        "0.17.2",
        "0.17.3",
        "A request that anyio cancels costs the pool a connection.",
        "1 of 2 connections can be used",
        "encode/httpcore#726",
        ("anyio>=4",),
    ),
    Bug(
        "aiohttp",
        "aiohttp",
        "3.14.1",
        "3.14.2",
        "An idle connection gets the timeout of an answer, and fails the next request.",
        "the answer was not true after silence(1)",
        "aio-libs/aiohttp#12953",
    ),
    Bug(
        "tortoise",
        "tortoise-orm[asyncpg]",
        "0.22.1",
        "0.22.2",
        "A lost answer to COMMIT leaves a connection that is never replaced.",
        "the answer was not true within 5 s after the heal",
        "tortoise/tortoise-orm#1796",
    ),
    Bug(
        "asyncpg",
        "asyncpg",
        "0.31.0",
        "0.32.0",
        "A pool hangs for ever after a statement that timed out on a silent network.",
        "TimeoutError",
        "MagicStack/asyncpg#1307",
    ),
    Bug(
        "redis_py",
        "redis",
        "4.5.1",
        "4.5.5",
        "A command gets the reply of another one, which was cancelled.",
        "assert b'1' == b'2'",
        "redis/redis-py#2624",
    ),
    Bug(
        "cashews",
        "cashews[redis]",
        "7.4.3",
        "7.4.4",
        "A lock stays until it expires, after Redis has lost its scripts.",
        "assert not True",
        "Krukov/cashews#387",
    ),
    Bug(
        "databases",
        "databases[asyncpg]",
        "0.9.0",
        None,
        "A pool loses the connection of each transaction whose COMMIT fails.",
        "TimeoutError",
        "encode/databases#498",
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="tests to run (default: all)")
    parser.add_argument("--times", type=int, default=1, help="runs of each test with each version (default: 1)")
    parser.add_argument("--environments", type=Path, default=ROOT / ".venv-library-bugs")
    options = parser.parse_args()
    bugs = [bug for bug in BUGS if not options.names or bug.test in options.names]
    print("| library | bug | with the bug | with the fix | lines | message |\n| --- | --- | --- | --- | --- | --- |")
    missed = 0
    for bug in bugs:
        red, message = count(bug, bug.buggy, options, expected=bug.cause)
        missed += red < options.times
        without = "none yet"
        if bug.fixed is not None:
            green, _ = count(bug, bug.fixed, options, expected=None)
            missed += green < options.times
            without = f"{bug.fixed}: green in {green} of {options.times}"
        print(row(bug, f"{bug.buggy}: red in {red} of {options.times}", without, message), flush=True)
    return 1 if missed else 0


def count(bug: Bug, version: str, options: argparse.Namespace, *, expected: str | None) -> tuple[int, str]:
    """Return how often the test had the expected outcome, and the last message.

    Args:
        bug: the bug.
        version: the version of the library.
        options: the arguments of the command line.
        expected: the part of the message with which the test must fail. None if it must pass.
    """
    python = environment(bug, version, options.environments)
    outcomes = [run(python, bug) for _ in range(options.times)]
    as_expected = [message for passed, message in outcomes if (passed if expected is None else expected in message)]
    unexpected = [message for _, message in outcomes if message not in as_expected]
    for message in unexpected:
        print(f"{bug.test} with {bug.library} {version}: {message or 'passed'}", file=sys.stderr)
    return len(as_expected), outcomes[-1][1]


def environment(bug: Bug, version: str, directory: Path) -> Path:
    """Return the interpreter of an environment with a version of the library. The first call makes the environment."""
    home = directory / f"{bug.test}-{version}"
    python = home / "bin" / "python"
    marker = home / "complete"
    if not marker.exists():
        pinned = sorted(map(str, ROOT.glob(".venv-uv/*/uv")))  # by scripts/test and the like
        uv = pinned[-1] if pinned else "uv"
        shutil.rmtree(home, ignore_errors=True)
        subprocess.run([uv, "venv", "-q", "--python", sys.executable, str(home)], check=True)
        required = [f"{ROOT}[embedded]", "pytest-asyncio>=1.5", f"{bug.library}=={version}", *bug.more]
        subprocess.run([uv, "pip", "install", "-q", "--python", str(python), *required], check=True)
        marker.touch()
    return python


def run(python: Path, bug: Bug) -> tuple[bool, str]:
    """Run a test once. Return True if it passed, and its message."""
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", f"test_{bug.test}.py"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    try:
        ran = subprocess.run(
            [*command, "--resilience-backend=embedded"],
            check=False,
            cwd=TESTS,
            env=environ,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return False, f"it did not end within {TIMEOUT:g} s"
    found = re.findall(r"^E +(?:\w+\.)*(NotSteady|NotCancellationSafe): (.*)$", ran.stdout, re.MULTILINE)
    errors = re.findall(r"^E +(.*)$", ran.stdout, re.MULTILINE)
    message = found[-1][1] if found else " ".join(errors) or ran.stdout.strip().rpartition("\n")[2]
    return ran.returncode == 0, message if ran.returncode else ""


def row(bug: Bug, red: str, green: str, message: str) -> str:
    """Return the row of a bug in the table."""
    code = [line for line in (TESTS / f"test_{bug.test}.py").read_text().splitlines() if line.strip()]
    shown = message if len(message) <= MAX_MESSAGE_CHARS else f"{message[:MAX_MESSAGE_CHARS]}..."
    number = bug.issue.rpartition("#")[2]
    link = bug.issue and (
        f"[{bug.issue}](https://nvd.nist.gov/vuln/detail/{bug.issue})"
        if bug.issue.startswith("CVE")
        else f"[{bug.issue}](https://github.com/{bug.issue.partition('#')[0]}/issues/{number})"
    )
    cells = [
        bug.library.partition("[")[0],
        f"{bug.what} {link}".strip(),
        red,
        green,
        f"[{len(code)}](../benchmarks/library_bugs/test_{bug.test}.py)",
        f"`{shown}`".replace("|", "\\|"),
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    begun = time.monotonic()
    code = main()
    print(f"\n{time.monotonic() - begun:.0f} seconds", file=sys.stderr)
    sys.exit(code)
