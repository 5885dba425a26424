"""The checker `linearizable` and Porcupine agree on the histories that the export writes, the true ones and the broken ones.

Porcupine is a checker in Go. Its program is $PORCUPINE_CHECK, which `.ci/tools` builds, or `porcupine-check` on PATH.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_resilience.checkers.linearizable import linearizable
from pytest_resilience.history import History
from tests.support.histories import Mix, spoiled, true_history

HISTORIES = 200
VERDICTS = {"ok": "ok", "illegal": "violated"}
MIXES = (
    Mix(clients=3, keys=2, operations=24, final=False),
    Mix(clients=4, keys=1, operations=20, info=0.1, versions=False, final=False),
    Mix(clients=5, keys=3, operations=40, kinds=("create", "update", "update", "read", "read"), final=False),
)


@pytest.fixture(scope="module")
def porcupine() -> str:
    """The path of the program."""
    program = os.environ.get("PORCUPINE_CHECK") or shutil.which("porcupine-check")
    if program is None:
        pytest.skip("Porcupine is not built here; set PORCUPINE_CHECK as .ci/tools prints it, which needs Go")
    return program


def histories() -> Iterator[History]:
    """Yield histories of a true store. In every other one, a read returns the value or the version of another one."""
    for seed in range(HISTORIES):
        chance = random.Random(seed)
        history = true_history(chance, MIXES[seed % len(MIXES)])
        yield with_another_value(history, chance) if seed % 2 else history


def with_another_value(history: History, chance: random.Random) -> History:
    """Return the history with the value of another operation in one read, or with its version only."""
    reads = [each for each in history.operations if each.f == "read" and each.type == "ok"]
    if not reads:
        return history
    read = chance.choice(reads)
    own = [each for each in history.operations if each.key == read.key and each.f != "list"]
    versions = [each.version for each in own if each.version not in (None, read.version)]
    if read.version is not None and versions and chance.random() < 0.5:
        return spoiled(history, read.index, version=chance.choice(versions))
    others = [each for each in own if each.value != read.value]
    if not others:
        return history
    other = chance.choice(others)
    return spoiled(history, read.index, value=other.value, version=other.version)


def test_porcupine_agrees_on_two_hundred_histories(tmp_path: Path, porcupine: str) -> None:
    files, ours = [], []
    for number, history in enumerate(histories()):
        files.append(tmp_path / f"{number}.jsonl")
        history.export(files[-1], "porcupine")
        ours.append(linearizable()(history).kind)
    run = subprocess.run([porcupine, *map(str, files)], capture_output=True, text=True, check=True, timeout=120)
    theirs = [VERDICTS.get(line, line) for line in run.stdout.split()]
    assert len(theirs) == HISTORIES
    differing = [(number, *pair) for number, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]]
    assert not differing
    counts = Counter(ours)
    assert min(counts["ok"], counts["violated"]) > HISTORIES // 5, f"one-sided histories prove little: {counts}"
