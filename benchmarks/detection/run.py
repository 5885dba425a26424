"""Search for ten planted bugs with generated schedules, and print how each was found.

The plants of the service are those of chaos/plants/. The bugs of clients are in the modules beside this file, each behind the
environment variable BUG. Each search has the profile `ci`: a minute to find, three to shorten.

    python benchmarks/detection/run.py [--seeds 1 2] [--jobs 2] [names]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "scripts" / "lib"), str(ROOT / "chaos")]

import run_plants  # noqa: E402  # it is no package

from plants import PLANTS  # noqa: E402

TIMEOUT = 900.0  # seconds for one search
SERVICE = "chaos/test_anything_goes.py"


@dataclass(frozen=True)
class Bug:
    """One planted bug.

    Args:
        name: what is wrong.
        plant: the plant in the service, or the value of BUG.
        test: the file of the generated test.
    """

    name: str
    plant: str
    test: str = SERVICE


BUGS = (
    Bug("a lost write on failover", "commit-not-flushed"),
    Bug("resurrection after delete", "redis-deleted-comes-back"),
    Bug("a slot leaked on cancel", "slot", "test_pool.py"),
    Bug("a subscription not renewed after the second outage", "subscription", "test_subscriber.py"),
    Bug("a retry storm", "redis-probed-without-a-pause"),
    Bug("a stale read after recovery", "redis-outage-writes-forgotten"),
    Bug("a race of two writers", "version-checked-before-the-change"),
    Bug("a cached error", "cache-errors-cached"),
    Bug("a job run twice", "job", "test_jobs.py"),
    Bug("a health endpoint that lies", "ready-late-after-an-outage"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="plants to search for (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--healthy", action="store_true", help="plant nothing, so that every finding is a false alarm")
    options = parser.parse_args()
    bugs = [bug for bug in BUGS if not options.names or bug.plant in options.names]
    print(
        "| bug | seed | result | schedules played | seconds | shortest schedule |\n| --- | --- | --- | --- | --- | --- |"
    )
    missed = 0
    with tempfile.TemporaryDirectory(prefix="detection-") as scratch, ThreadPoolExecutor(options.jobs) as threads:
        futures = [
            threads.submit(search, bug, seed, Path(scratch), planted=not options.healthy)
            for bug in bugs
            for seed in options.seeds
        ]
        for future in futures:
            line, found = future.result()
            missed += found is options.healthy
            print(line, flush=True)
    print(f"load of the machine at the end: {os.getloadavg()[0]:.1f}")
    return 1 if missed else 0


def search(bug: Bug, seed: int, scratch: Path, *, planted: bool) -> tuple[str, bool]:
    """Run one generated test. Return a row of the table, and True if it failed."""
    checkout = scratch / f"{bug.plant}-{seed}"
    environment = dict(os.environ)
    if bug.test == SERVICE:
        run_plants.copy_checkout(checkout)
        if planted:
            run_plants.apply(next(plant for plant in PLANTS if plant.name == bug.plant), checkout)
    else:
        shutil.copytree(HERE, checkout)
        (checkout / "pytest.ini").write_text("[pytest]\n")
        environment["BUG"] = bug.plant if planted else ""
    begun = time.monotonic()
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--resilience-backend=embedded",
            "--resilience-profile=ci",
            f"--resilience-seed={seed}",
            "--junitxml=junit.xml",
            bug.test,
        ],
        check=False,
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    seconds = time.monotonic() - begun
    (HERE / "out").mkdir(exist_ok=True)
    (HERE / "out" / f"{bug.plant}-{seed}.txt").write_text(result.stdout)
    found = result.returncode == 1
    properties = _properties(checkout / "junit.xml")
    remarks = re.findall(r"^E +((?:found after|reproduced) .*)$", result.stdout, re.MULTILINE)
    outcome = remarks[-1] if remarks else ("not found" if result.returncode == 0 else f"exit code {result.returncode}")
    row = [
        bug.name,
        str(seed),
        outcome,
        properties.get("resilience_schedules", "?"),
        f"{seconds:.0f}",
        _schedule(checkout),
    ]
    return f"| {' | '.join(row)} |", found


def _properties(junit: Path) -> Mapping[str, str]:
    if not junit.exists():
        return {}
    return {each.get("name") or "": each.get("value") or "" for each in ET.parse(junit).iter("property")}


def _schedule(checkout: Path) -> str:
    """Return the schedule of the replay in a few words."""
    for file in sorted((checkout / ".resilience" / "replays").glob("*.json")):
        episodes = json.loads(file.read_text())["episodes"]
        return "; ".join(
            f"{', '.join(step['fault'] for step in each['steps']) or 'no fault'} in {each['operations']} operations"
            for each in episodes
        )
    return ""


if __name__ == "__main__":
    sys.exit(main())
