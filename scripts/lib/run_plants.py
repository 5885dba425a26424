"""Plants each regression of chaos/plants/ in a copy of the checkout, runs the chaos tests that are for it, and wants them red.

A plant fails when it no longer applies, when a test that should notice stays green, or when its message does not name the cause.
"""

from __future__ import annotations

import argparse
import importlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("pytest_resilience", "service", "chaos", "conftest.py", "pyproject.toml")
SKIPPED = shutil.ignore_patterns(".resilience")  # bytecode is welcome: it saves a second for each plant
SECONDS = 60.0  # for the tests of one plant; they take a few
SECONDS_WHOLE = 600.0  # for the whole suite against one plant
GOODBYE = 10.0  # seconds for a run that was told to stop


def main() -> int:
    """Returns the exit status: 0 when every plant was found out."""
    plants = _plants()
    arguments = _arguments([plant.name for plant in plants])
    if arguments.table:
        print(table(plants), end="")
        return 0
    chosen = [plant for plant in plants if not arguments.names or plant.name in arguments.names]
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="plants-") as scratch, ThreadPoolExecutor(arguments.jobs) as threads:
        verdicts = [threads.submit(judge, plant, Path(scratch), whole=arguments.whole) for plant in chosen]
        failed = []
        for plant, verdict in zip(chosen, verdicts, strict=True):
            print(verdict.result(), flush=True)
            if verdict.result().wrong:
                failed.append(plant.name)
    print(f"plants: {len(chosen) - len(failed)} of {len(chosen)} found out, in {time.monotonic() - begin:.0f} s")
    if failed:
        print(f"plants: not found out: {' '.join(failed)}")
    return 1 if failed else 0


def _arguments(known: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/plants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="plants to run (default: all)")
    parser.add_argument("--whole", action="store_true", help="run the whole chaos suite and tell all tests that go red")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="plants at a time (default: 2)")
    parser.add_argument("--table", action="store_true", help="print the plants as a table in Markdown; run nothing")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(known))
    if unknown:
        parser.error(f"no plants named {', '.join(unknown)}; there are: {', '.join(known)}")
    return arguments


def _plants() -> list[Any]:
    """The table. It belongs to the chaos suite, which is no package, so its folder goes on the path."""
    sys.path.insert(0, str(ROOT / "chaos"))
    return list(importlib.import_module("plants").PLANTS)


def table(plants: list[Any]) -> str:
    """The plants as a Markdown table."""
    lines = [
        "| plant | what somebody would say | where | the test that goes red | and says |",
        "| --- | --- | --- | --- | --- |",
    ]
    for plant in plants:
        tests = "<br>".join(f"`{test}`" for test in plant.tests)
        cells = (f"`{plant.name}`", plant.story, f"`{plant.file}`", tests, plant.says)
        lines.append(
            "| " + " | ".join(cell if cell.startswith("`") else cell.replace("|", "\\|") for cell in cells) + " |"
        )
    return "\n".join(lines) + "\n"


@dataclass
class Verdict:
    """What came of one plant."""

    name: str
    seconds: float = 0.0
    red: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{'FAILED' if self.wrong else 'red   '} {self.name} ({self.seconds:.1f} s)"]
        lines += [f"       {test}: {message}" for test, message in self.red.items()]
        lines += [f"   !!! {each}" for each in self.wrong]
        return "\n".join(lines)


def judge(plant: Any, scratch: Path, *, whole: bool) -> Verdict:
    """Plant, run, and see whether it was found out."""
    checkout = scratch / plant.name
    copy(checkout)
    verdict = Verdict(plant.name)
    try:
        apply(plant, checkout)
    except LookupError as error:
        verdict.wrong.append(str(error))
        return verdict
    begin = time.monotonic()
    limit = SECONDS_WHOLE if whole else SECONDS
    tests = ["chaos"] if whole else [f"chaos/{test}" for test in plant.tests]
    messages, output = run(checkout, tests, limit)
    verdict.seconds = time.monotonic() - begin
    verdict.red = {test: _first_line(message, plant.says) for test, message in messages.items()}
    for test in plant.tests:
        found = [message for name, message in messages.items() if name == test or name.startswith(f"{test}[")]
        if not found:
            verdict.wrong.append(f"{test} stays green, or was not run: {output[-1] if output else 'no output'}")
        elif not any(plant.says in message for message in found):
            verdict.wrong.append(f"{test} does not say {plant.says!r}")
    shutil.rmtree(checkout, ignore_errors=True)
    return verdict


def copy(checkout: Path) -> None:
    """A checkout of its own: nobody's edits get mixed up."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, checkout / name, ignore=SKIPPED)
        else:
            shutil.copy2(source, checkout / name)


def apply(plant: Any, checkout: Path) -> None:
    """Make the plant's changes.

    Raises:
        LookupError: the service has changed, and a change no longer applies.
    """
    for file, old, new in plant.edits:
        path = checkout / file
        text = path.read_text(encoding="utf-8")
        if old not in text:
            raise LookupError(f"no longer applies: {file} has no {old!r}")
        path.write_text(text.replace(old, new), encoding="utf-8")


def run(checkout: Path, tests: list[str], limit: float) -> tuple[dict[str, str], list[str]]:
    """Run tests in a checkout. Returns the message of each that failed, and what pytest printed."""
    junit = checkout / "junit.xml"
    options = ["--resilience-strict", "-q", "--tb=short", "-p", "no:cacheprovider", f"--junitxml={junit}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=checkout,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.terminate()  # the plugin's supervisor ends what it started
        try:
            output, _ = process.communicate(timeout=GOODBYE)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
        output += f"\nnot done after {limit:g} s"
    lines = output.strip().splitlines()
    return (_messages(junit) if junit.exists() else {}), lines


def _messages(junit: Path) -> dict[str, str]:
    """By test, what its failures and errors said."""
    messages: dict[str, str] = {}
    for case in ET.parse(junit).iter("testcase"):
        said = [each.get("message") or "" for kind in ("failure", "error") for each in case.iter(kind)]
        if said:
            file = case.get("classname", "").rpartition(".")[2]
            test = f"{file}.py::{case.get('name')}"  # one that fails and then has an error in its teardown comes twice
            messages[test] = "\n".join([messages[test], *said] if test in messages else said)
    return messages


def _first_line(message: str, wanted: str) -> str:
    """The line of a message that has what was wanted, or else its first."""
    lines = [line for line in re.split(r"\n|&#10;", message) if line.strip()]
    chosen = next((line for line in lines if wanted in line), lines[0] if lines else "")
    return chosen.strip()[:200]


if __name__ == "__main__":
    sys.exit(main())
