"""A fleet: several runs of one project, each with a seed of its own, share one example database and merge what they leave."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_resilience.backends.embedded.backend import EmbeddedBackend
from pytest_resilience.history import History
from pytest_resilience.schedule import Schedule
from tests.test_docs import ROOT, files_of

PAGE = ROOT / "docs" / "soak.md"
SEED = 20251124
REPLAY = ".resilience/replays"
HISTORY = ".resilience/history/main/test_shop.py-test_orders.jsonl"

# The bug is in a pure function, so that a play costs milliseconds. It needs two faults of one kind in one episode.
TESTS = """
import hashlib, os, pathlib, time
from hypothesis import given, settings
from pytest_resilience.checkers import unique_ids
from pytest_resilience.strategies import schedules

SCHEDULES = schedules("redis", "postgres", faults=["latency", "reset", "refuse", "kill"])

def note_down(test, schedule):
    with open(f"{test}.played", "a") as file:
        file.write(hashlib.sha256(schedule.dumps().encode()).hexdigest() + "\\n")

@settings(max_examples=20)
@given(schedule=SCHEDULES)
def test_baskets(resilience, schedule):
    note_down("baskets", schedule)
    resilience.history.client().invoke("create").ok(key="1")

def test_the_index_before_has_ended():
    \"\"\"Wait, while this run is in progress.\"\"\"
    deadline = time.monotonic() + 120
    while not pathlib.Path(os.environ["WAIT_FOR"]).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)

@given(schedule=SCHEDULES)
def test_orders(resilience, schedule):
    note_down("orders", schedule)
    client = resilience.history.client()
    client.invoke("create").ok(key="1")
    for episode in schedule.episodes:
        if [step.fault for step in episode.steps].count("redis.kill") >= 2:
            client.invoke("create").ok(key="1")
    resilience.history.check(unique_ids())

def test_end():
    pathlib.Path("ended").touch()
"""


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    """The URL of a Redis that belongs to no run of the fleet."""
    backend = EmbeddedBackend()
    backend.start()
    server = backend.servers["redis"]
    yield server.url(server.direct_address)
    backend.close()


class Index:
    """A checkout of the project on one machine of the fleet.

    Args:
        root: the directory.
        database: the value of SOAK_DATABASE.
    """

    def __init__(self, root: Path, database: str) -> None:
        self.root = root
        root.mkdir()
        (root / "pytest.ini").write_text("[pytest]\naddopts = -p pytest_resilience -p no:cacheprovider\n")
        (root / "conftest.py").write_text(files_of(PAGE)["conftest.py"])
        (root / "test_shop.py").write_text(TESTS)
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), "CI": "true", "SOAK_DATABASE": database}

    def start(self, *options: str, before: Index | None = None) -> subprocess.Popen[str]:
        """Start pytest.

        Args:
            options: its arguments.
            before: has to find the bug before this run searches for it; None for no waiting.
        """
        wait_for = before.root / "ended" if before is not None else self.root
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", "--resilience-profile=ci", *options],
            cwd=self.root,
            env={**self._environment, "WAIT_FOR": str(wait_for)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def played(self, test: str) -> list[str]:
        """Return the hash of each schedule that a test has played, in order."""
        return (self.root / f"{test}.played").read_text().split()

    @property
    def replays(self) -> list[str]:
        """The names of the replay files."""
        return sorted(path.name for path in (self.root / REPLAY).iterdir())


def output_of(process: subprocess.Popen[str]) -> str:
    """Return the output of a run, at its end."""
    output, _ = process.communicate(timeout=150)
    return output


@pytest.mark.parametrize("place", ["redis", "directory"])
def test_two_indexes_share_one_database_draw_schedules_of_their_own_and_merge_their_files(
    tmp_path: Path, redis_url: str, place: str
) -> None:
    database = redis_url if place == "redis" else str(tmp_path / "examples")
    first, second = (Index(tmp_path / str(number), database) for number in range(2))
    runs = [
        first.start(f"--resilience-seed={SEED}0"),
        second.start(f"--resilience-seed={SEED}1", before=first),
    ]
    for text in map(output_of, runs):
        assert "1 failed, 3 passed" in text
        assert "PromiseBroken: unique_ids: id 1" in text
        assert "reproduced 10 of 10" in text

    # CI is set, and Hypothesis' profile for it would draw the same in each run
    drawn = [set(each.played("baskets")) for each in (first, second)]
    assert len(drawn[0] & drawn[1]) < 5 < min(map(len, drawn))

    # the shortest schedule of the first index is the first one of the second
    (replay,) = first.replays
    digest = replay.removesuffix(".json")[-8:]
    assert not first.played("orders")[0].startswith(digest)
    assert second.played("orders")[0].startswith(digest)
    assert 4 * len(set(second.played("orders"))) < len(set(first.played("orders")))

    merged = Index(tmp_path / "merged", database)
    for each in first, second:
        shutil.copytree(each.root / REPLAY, merged.root / REPLAY, dirs_exist_ok=True)
    assert merged.replays == first.replays == second.replays
    faults = [step.fault for episode in Schedule.load(merged.root / REPLAY / replay).episodes for step in episode.steps]
    assert faults == ["redis.kill", "redis.kill"]
    assert (
        len(History.load(first.root / HISTORY).operations) == len(History.load(second.root / HISTORY).operations) == 2
    )

    text = output_of(merged.start(f"--resilience-replay={REPLAY}/{replay}:2"))
    assert text.rstrip().endswith("reproduced 2 of 2")
