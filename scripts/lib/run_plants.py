"""Apply each plant of chaos/plants/ to a copy of the checkout, and require that the chaos tests named for it fail.

A plant is not detected when one of its texts is no longer in the service, when a test that should fail passes, or when the failure's
message does not name the cause.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("pytest_resilience", "service", "chaos", "conftest.py", "pyproject.toml")
NOT_COPIED = shutil.ignore_patterns(".resilience")  # bytecode is copied, which saves a second for each plant
TIMEOUT = (
    300.0  # seconds for the tests of one plant; generated ones search for a minute, and the others take a few seconds
)
TIMEOUT_WHOLE = 600.0  # seconds for the whole suite
STOP_TIMEOUT = 10.0  # seconds between SIGTERM and SIGKILL
RUNNING: set[subprocess.Popen[str]] = set()  # the present runs of pytest
STOPPING = threading.Event()  # no run of pytest goes on


def main() -> int:
    """Return 0 if every plant was detected, else 1."""
    plants = _load_plants()
    options = _parse_arguments([plant.name for plant in plants])
    selected = [plant for plant in plants if not options.names or matches_any(plant.name, options.names)]
    if options.table:
        print(markdown_table(selected), end="")
        return 0
    begin = time.monotonic()
    missed = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with (
        tempfile.TemporaryDirectory(prefix="plants-") as scratch,
        ThreadPoolExecutor(options.jobs) as threads,
        stopping_tests(threads),
    ):
        futures = [threads.submit(run_plant, plant, Path(scratch), whole=options.whole) for plant in selected]
        for future in futures:
            result = future.result()
            print(result, flush=True)
            if result.problems:
                missed.append(result.name)
    seconds = time.monotonic() - begin
    print(f"plants: {len(selected) - len(missed)} of {len(selected)} detected in {seconds:.0f} s")
    if missed:
        print(f"plants: not detected: {' '.join(missed)}")
    return 1 if missed else 0


@contextmanager
def stopping_tests(threads: ThreadPoolExecutor) -> Iterator[None]:
    """Stop all tests when the block ends by an exception, such as that of a SIGTERM."""
    try:
        yield
    except BaseException:
        STOPPING.set()
        threads.shutdown(wait=False, cancel_futures=True)
        for process in tuple(RUNNING):
            process.terminate()
        raise


def _parse_arguments(known: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/plants", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="plants to run, or patterns such as 'incident-*' (default: all)"
    )
    parser.add_argument("--whole", action="store_true", help="run the whole chaos suite and list every test that fails")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="plants to run in parallel (default: 2)")
    parser.add_argument("--table", action="store_true", help="print the plants as a Markdown table and exit")
    options = parser.parse_args()
    unknown = sorted({name for name in options.names if not fnmatch.filter(known, name)})
    if unknown:
        parser.error(f"no plants named {', '.join(unknown)}; the plants are: {', '.join(known)}")
    return options


def matches_any(name: str, patterns: list[str]) -> bool:
    """True if a name equals one of some names, or matches one of some patterns such as "incident-*"."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _load_plants() -> list[Any]:
    """Return the plants of the chaos suite, which is a folder of tests and no package."""
    sys.path.insert(0, str(ROOT / "chaos"))
    return list(importlib.import_module("plants").PLANTS)


def markdown_table(plants: list[Any]) -> str:
    """Return the plants as the Markdown table of docs/plants.md."""
    lines = ["| plant | why it looked right | file | failing test | message |", "| --- | --- | --- | --- | --- |"]
    for plant in plants:
        rationale, message = (text.replace("|", "\\|") for text in (plant.rationale, plant.message))
        tests = "<br>".join(f"`{test}`" for test in plant.tests)
        lines.append(f"| `{plant.name}` | {rationale} | `{plant.file}` | {tests} | {message} |")
    return "\n".join(lines) + "\n"


@dataclass
class PlantResult:
    """The result of one plant.

    Args:
        name: the plant's.
        seconds: how long its tests ran.
        failures: one line of the message of each test that failed, by test.
        problems: why the plant was not detected; empty if it was.
    """

    name: str
    seconds: float = 0.0
    failures: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{'MISSED  ' if self.problems else 'detected'} {self.name} ({self.seconds:.1f} s)"]
        lines += [f"         {test}: {message}" for test, message in self.failures.items()]
        lines += [f"     !!! {problem}" for problem in self.problems]
        return "\n".join(lines)


def run_plant(plant: Any, scratch: Path, *, whole: bool) -> PlantResult:
    """Apply a plant to a copy of the checkout and run its tests, or the `whole` suite."""
    checkout = scratch / plant.name
    copy_checkout(checkout)
    result = PlantResult(plant.name)
    try:
        apply(plant, checkout)
    except LookupError as error:
        result.problems.append(str(error))
        return result
    begin = time.monotonic()
    tests = ["chaos"] if whole else [f"chaos/{test}" for test in plant.tests]
    messages, output = run_tests(checkout, tests, TIMEOUT_WHOLE if whole else TIMEOUT)
    result.seconds = time.monotonic() - begin
    result.failures = {test: _relevant_line(message, plant.message) for test, message in messages.items()}
    result.problems += find_problems(plant, messages, output)
    shutil.rmtree(checkout, ignore_errors=True)
    return result


def find_problems(plant: Any, messages: dict[str, str], output: list[str]) -> list[str]:
    """Return why the plant was not detected, from the messages of the failed tests and pytest's output."""
    problems = []
    for test in plant.tests:
        of_test = [message for name, message in messages.items() if name == test or name.startswith(f"{test}[")]
        if not of_test:
            problems.append(f"{test} passes, or did not run: {output[-1] if output else 'no output'}")
        elif not any(plant.message in message for message in of_test):
            problems.append(f"the message of {test} does not contain {plant.message!r}")
    return problems


def copy_checkout(target: Path) -> None:
    """Copy the parts of the checkout that the chaos suite needs."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=NOT_COPIED)
        else:
            shutil.copy2(source, target / name)


def apply(plant: Any, checkout: Path) -> None:
    """Make the plant's edits.

    Raises:
        LookupError: a text that the plant replaces is no longer in the service.
    """
    for file, old, new in plant.edits:
        path = checkout / file
        text = path.read_text(encoding="utf-8")
        if old not in text:
            raise LookupError(f"no longer applies: {file} does not contain {old!r}")
        path.write_text(text.replace(old, new), encoding="utf-8")


def run_tests(checkout: Path, tests: list[str], timeout: float) -> tuple[dict[str, str], list[str]]:
    """Run tests in a checkout.

    Args:
        checkout: the working directory.
        tests: node ids and paths for pytest.
        timeout: seconds after which pytest is stopped.

    Returns:
        The messages of the failed tests by test, and the lines that pytest printed.
    """
    junit = checkout / "junit.xml"
    options = [
        "--resilience-strict",
        "--resilience-profile=ci",
        "-q",
        "--tb=short",
        "-p",
        "no:cacheprovider",
        f"--junitxml={junit}",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=checkout,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    RUNNING.add(process)
    if STOPPING.is_set():
        process.terminate()
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.terminate()  # the plugin's supervisor ends the processes of the session
        try:
            output, _ = process.communicate(timeout=STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
        output += f"\nnot finished after {timeout:g} s"
    finally:
        RUNNING.discard(process)
    return (_read_messages(junit) if junit.exists() else {}), output.strip().splitlines()


def _read_messages(junit: Path) -> dict[str, str]:
    """Return the messages of failures and errors by test, from a JUnit file."""
    messages: dict[str, str] = {}
    for case in ET.parse(junit).iter("testcase"):
        of_case = [each.get("message") or "" for kind in ("failure", "error") for each in case.iter(kind)]
        if of_case:
            file = case.get("classname", "").rpartition(".")[2]
            test = f"{file}.py::{case.get('name')}"  # twice, if the test fails and then its teardown has an error
            messages[test] = "\n".join([messages[test], *of_case] if test in messages else of_case)
    return messages


def _relevant_line(message: str, expected: str) -> str:
    """Return the line of a message that contains `expected`, or else the first line."""
    lines = [line for line in re.split(r"\n|&#10;", message) if line.strip()]
    line = next((line for line in lines if expected in line), lines[0] if lines else "")
    return line.strip()[:200]


if __name__ == "__main__":
    sys.exit(main())
