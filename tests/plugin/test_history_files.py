"""The history of each test is a file, which is written while the test runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

TESTS = """
import pathlib, time

def test_it_works(resilience):
    strike = resilience.redis.latency(0.001)
    client = resilience.history.client()
    client.invoke("update", key="1", value="w1").ok(version=2)
    strike.heal()
    file, = pathlib.Path(".resilience/history").glob("*/*works.jsonl")
    assert len(file.read_text().splitlines()) == 3  # a heal is flushed
    client.invoke("read", key="1").info(TimeoutError("late"))
    client.invoke("read", key="1")

def test_it_only_strikes(resilience):
    resilience.redis.latency(0.001)

def test_it_reads_a_password(resilience):
    url = resilience.postgres.url
    pathlib.Path("password").write_text(url.split(":")[2].partition("@")[0])
    resilience.history.recorded(lambda: url, f="read", key=url)()
"""


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_test_with_operations_leaves_the_file_of_its_history(project: pytest.Pytester) -> None:
    project.makepyfile(test_shop=TESTS)
    assert project.runpytest_subprocess("-n", "0").ret == 0
    directory = project.path / ".resilience" / "history" / "main"
    names = {file.name for file in directory.iterdir()}
    assert names == {"test_shop.py-test_it_works.jsonl", "test_shop.py-test_it_reads_a_password.jsonl"}
    found = lines(directory / "test_shop.py-test_it_works.jsonl")
    assert [each.get("mark") or (each["f"], each["type"]) for each in found] == [
        "strike",
        ("update", "ok"),
        "heal",
        ("read", "info"),
        ("read", "info"),
    ]
    assert found[0]["label"].startswith("redis.latency")
    assert found[-1]["error"] == "not ended at the end of the history"
    assert (project.path / ".resilience" / ".gitignore").exists()
    text = (directory / "test_shop.py-test_it_reads_a_password.jsonl").read_text()
    assert (project.path / "password").read_text() not in text
    assert text.count(":***@") == 2


def test_each_worker_has_a_directory(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("n", range(2))
        def test_it(resilience, n, worker_id):
            resilience.history.client().invoke("read", value=worker_id).ok()
        """
    )
    project.runpytest_subprocess("-n", "2", "--dist", "each").assert_outcomes(passed=4)
    files = sorted((project.path / ".resilience" / "history").glob("*/*.jsonl"))
    assert [(file.parent.name, lines(file)[0]["value"]) for file in files] == [
        ("gw0", "gw0"),
        ("gw0", "gw0"),
        ("gw1", "gw1"),
        ("gw1", "gw1"),
    ]


ONE = "def test_it(resilience):\n    resilience.history.client().invoke('read').ok()\n"


def test_off_writes_nothing(project: pytest.Pytester) -> None:
    project.makepyfile(ONE)
    project.runpytest_subprocess("-n", "0", "--resilience-history=off").assert_outcomes(passed=1)
    assert not (project.path / ".resilience").exists()


def test_a_relative_directory_counts_from_the_rootdir(project: pytest.Pytester) -> None:
    (project.path / "below").mkdir()
    (project.path / "below" / "test_below.py").write_text(ONE)
    os.chdir(project.path / "below")
    project.runpytest_subprocess("-n", "0", "--resilience-history=kept/histories").assert_outcomes(passed=1)
    files = list((project.path / "kept" / "histories" / "main").iterdir())
    assert [file.name for file in files] == ["below-test_below.py-test_it.jsonl"]
    assert not (project.path / ".resilience").exists()


def test_a_directory_that_cant_be_written_is_a_warning_and_loses_nothing(project: pytest.Pytester) -> None:
    (project.path / "taken").write_text("a file")
    project.makepyfile(
        f"{ONE}    assert len(resilience.history.operations) == 1\n\n{ONE.replace('test_it', 'test_too')}"
    )
    result = project.runpytest_subprocess("-n", "0", "--resilience-history=taken/histories", "-W", "default")
    result.assert_outcomes(passed=2, warnings=1)
    result.stdout.fnmatch_lines(
        "*PytestWarning: pytest-resilience: the history of a test can't be written: *taken*. Set --resilience-history to*"
    )


@pytest.mark.parametrize("value", ["setup.py", "no", "1"])
def test_a_value_that_is_no_directory_is_an_error(project: pytest.Pytester, value: str) -> None:
    project.makepyfile(setup="")
    result = project.runpytest_subprocess("-n", "0", f"--resilience-history={value}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(f"ERROR: --resilience-history must be a directory or off, *{value}*")


def test_each_attempt_of_a_flaky_test_keeps_its_history(project: pytest.Pytester) -> None:
    pytest.importorskip("pytest_rerunfailures")
    project.makepyfile(
        """
        attempts = []

        def test_it(resilience):
            attempts.append(1)
            resilience.history.client().invoke("read", value=len(attempts)).ok()
            assert len(attempts) == 2
        """
    )
    project.runpytest_subprocess("-n", "0", "-p", "rerunfailures", "--reruns=1").assert_outcomes(passed=1)
    directory = project.path / ".resilience" / "history" / "main"
    values = {file.stem.rpartition("test_it")[2]: lines(file)[0]["value"] for file in directory.iterdir()}
    assert values == {"": 1, "-attempt-2": 2}


def test_a_generated_test_keeps_the_history_of_its_last_example(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        from hypothesis import given, settings, strategies as st

        @settings(max_examples=5, database=None)
        @given(n=st.integers(0, 3))
        def test_it(resilience, n):
            resilience.history.client().invoke("read", value=n).ok()
        """
    )
    project.runpytest_subprocess("-n", "0").assert_outcomes(passed=1)
    file = (
        project.path
        / ".resilience"
        / "history"
        / "main"
        / "test_a_generated_test_keeps_the_history_of_its_last_example.py-test_it.jsonl"
    )
    assert [each["index"] for each in lines(file)] == [0]


def test_a_generated_test_that_fails_keeps_the_history_of_the_reported_play(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_shop="""
        from hypothesis import Phase, example, given, settings, strategies as st

        plays = []

        @settings(phases=[Phase.explicit], database=None)
        @example(n=7)
        @given(n=st.integers(0, 100))
        def test_it(resilience, n):
            plays.append(n)
            resilience.history.client().invoke("read", value=len(plays)).ok()
            assert len(plays) % 13 == 0, f"in play {len(plays)}"
        """
    )
    result = project.runpytest_subprocess("-n", "0")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["E * in play 12", "E *reproduced 9 of 10", "E *history: .resilience/history/main/test_shop.py-test_it.jsonl"]
    )
    found = lines(project.path / ".resilience" / "history" / "main" / "test_shop.py-test_it.jsonl")
    assert [each["value"] for each in found] == [12], "play 13, the last one, has passed"


def test_a_failure_names_the_file_of_its_history_if_there_is_one(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_shop="""
        from pytest_resilience.checkers import unique_ids

        def test_it(resilience):
            for _ in range(2):
                resilience.history.client().invoke("create").ok(key="7")
            resilience.history.check(unique_ids())
        """
    )
    name = "main/test_shop.py-test_it.jsonl"
    for options, file in (
        ((), f".resilience/history/{name}"),
        (("--resilience-history=kept",), f"kept/{name}"),
        (("--resilience-history=off",), None),
    ):
        result = project.runpytest_subprocess("-n", "0", *options)
        result.assert_outcomes(failed=1)
        shown = [line.rpartition(": ")[2] for line in result.outlines if line.startswith("E  ") and "history: " in line]
        assert shown == ([file] if file is not None else [])
        assert file is None or len(lines(project.path / file)) == 2


def test_an_earlier_history_can_take_the_place_of_the_last_one(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_shop="""
        def test_it(resilience):
            first = resilience.history
            first.client().invoke("read", value="first").ok()
            resilience.begin_example()
            resilience.history.client().invoke("read", value="second").ok()
            resilience.end_example()
            resilience.write_history(first)
            resilience.history.begin_phase("heal", 1)  # of the last history, so it is not in the file
        """
    )
    project.runpytest_subprocess("-n", "0").assert_outcomes(passed=1)
    found = lines(project.path / ".resilience" / "history" / "main" / "test_shop.py-test_it.jsonl")
    assert [each.get("value") for each in found] == ["first"]
