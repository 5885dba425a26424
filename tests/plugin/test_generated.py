"""Generated tests: `@given` and the fixture `resilience` together, on the real stack."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

DRAWING = """
import json, os
from hypothesis import given, settings, strategies as st
from pathlib import Path

LISTS = st.lists(st.integers(0, 50), max_size=8)

def note_down(name, value):
    with open(f"{name}.seen", "a") as file:
        file.write(json.dumps(value) + "\\n")
"""
FAILING = (
    DRAWING
    + """
@given(xs=LISTS)
def test_short(resilience, xs):
    assert len(xs) < 3, "too long"
"""
)
PLAYING = """
import redis
from hypothesis import given, settings, strategies as st
from pytest_resilience.checkers import unique_ids
from pytest_resilience.schedule import Episode, Schedule, Step, operations

class Counter:
    kinds = ("create",)
    def begin(self, resilience):
        self.resilience = resilience
        self.redis = redis.Redis.from_url(resilience.redis.url, socket_timeout=1, retry=None)
    def kind(self, n):
        return "create"
    def perform(self, client, kind, n):
        call = client.invoke("create")
        try:
            number = self.redis.incr("ids")
        except redis.RedisError as error:
            call.info(error)
        else:
            was_struck = any(each.label.startswith("redis.reset") for each in self.resilience.strikes)
            call.ok(key="1" if was_struck else str(number))
    def read_all(self, client):
        pass
    def end(self):
        self.redis.close()

def schedules(*faults):
    steps = st.builds(lambda fault, n: Step(fault, at=operations(n)), st.sampled_from(faults), st.integers(0, 3))
    episodes = st.builds(Episode, st.lists(steps, max_size=2), st.integers(4, 6))
    return st.builds(lambda episode: Schedule([episode]), episodes)
"""


def seen(path: Path, name: str) -> list[object]:
    file = path / f"{name}.seen"
    found = [json.loads(line) for line in file.read_text().splitlines()]
    file.unlink()
    return found


def properties(path: Path) -> dict[str, str]:
    return {p.get("name", ""): p.get("value", "") for p in ET.parse(path / "junit.xml").iter("property")}


def test_a_failure_is_shrunk_counted_and_becomes_a_file_that_replays(project: pytest.Pytester) -> None:
    test = project.makepyfile(FAILING)
    result = project.runpytest_subprocess("--junitxml=junit.xml", "--resilience-seed=3")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E * AssertionError: too long",
            "E *xs = [[]0, 0, 0[]]",
            "E *found after * schedule*, *.? s; reproduced 10 of 10; shortened * time*",
            "E *replay it: pytest --resilience-replay .resilience/replays/test_short-*.json",
            "GENERATED *::test_short: * schedules played, 0 strikes, 0 hit; reproduced 10 of 10",
        ]
    )
    for noise in ("Falsifying", "Failing test case", "reproduce_failure", "patch"):
        result.stdout.no_fnmatch_line(f"*{noise}*")
    found = properties(project.path)
    assert found["resilience_seed"] == "3"
    assert found["resilience_reproduced"] == "10 of 10"
    assert re.fullmatch(r"\d+ schedules?", found["resilience_found_after"])
    assert found["resilience_outcome"] == "broken"
    file = found["resilience_replay"]
    assert re.fullmatch(r"\.resilience/replays/test_short-[0-9a-f]{8}\.json", file)
    assert found["resilience_schedule"].startswith(file[-13:-5])

    replayed = project.runpytest_subprocess("--resilience-replay", f"{file}:4")
    assert replayed.ret == 1
    assert replayed.outlines[-1] == "reproduced 4 of 4"
    test.write_text(FAILING.replace("< 3", "< 4"))
    replayed = project.runpytest_subprocess("--resilience-replay", file)
    assert replayed.ret == 0
    assert replayed.outlines[-1] == "reproduced 0 of 10"


def test_a_replay_that_is_wrong_is_a_usage_error(project: pytest.Pytester) -> None:
    project.makepyfile(FAILING + "\n@given(xs=LISTS)\ndef test_other(resilience, xs):\n    pass\n")
    files = {
        "missing.json": None,
        "text.json": "text",
        "field.json": '{"version": 1, "episodes": [], "oops": 1}',
        "unknown.json": '{"version": 1, "arguments": {"xs": []}, "found": {"test": "test_gone.py::test_gone"}}',
        "missing-argument.json": '{"version": 1, "arguments": {"ys": []}, "found": {"test": "NAME.py::test_short"}}',
        "lost.json": '{"version": 1, "arguments": {"ys": 1}, "found": {"test": "NAME.py::test_short", "lost": {"xs": "{1}"}}}',
    }
    expected = [
        "*missing.json: No such file or directory",
        "*text.json: not JSON: *",
        "*field.json: oops: unknown field*",
        "*test_gone.py::test_gone is not among them; select one generated test*test_short*test_other*",
        "*::test_short: the test draws argument 'xs', which the file does not have",
        "*::test_short: argument 'xs' can't be replayed*",
    ]
    name = next(project.path.glob("test_*.py")).stem
    for (file, text), line in zip(files.items(), expected, strict=True):
        if text is not None:
            (project.path / file).write_text(text.replace("NAME", name))
        result = project.runpytest_subprocess("--resilience-replay", file)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"ERROR: --resilience-replay: {line}"])


@pytest.mark.parametrize(
    ("marker", "without"),
    [("asyncio", ["-p", "no:anyio"]), ("anyio", ["-p", "no:asyncio", "-o", "addopts="])],
    ids=["pytest-asyncio", "anyio"],
)
def test_async_and_parametrized_tests_are_shrunk_each(
    project: pytest.Pytester, marker: str, without: list[str]
) -> None:
    if marker == "anyio":
        project.makeini("[pytest]\naddopts = -p pytest_resilience\n")
    project.makeconftest("import pytest\n@pytest.fixture\ndef anyio_backend(): return 'asyncio'\n")
    project.makepyfile(
        DRAWING
        + f"""
import asyncio, pytest

@pytest.mark.{marker}
@pytest.mark.parametrize("limit", [1, 2])
@given(xs=LISTS)
async def test_async(resilience, xs, limit):
    await asyncio.sleep(0)
    assert len(xs) < limit

class TestIt:
    @given(xs=LISTS)
    def test_method(self, resilience, xs):
        assert len(xs) < 3
"""
    )
    for _ in range(2):  # the second run takes them from the database
        result = project.runpytest_subprocess(*without[:2])
        result.assert_outcomes(failed=3)
        result.stdout.fnmatch_lines(["E *xs = [[]0[]]", "E *xs = [[]0, 0[]]", "E *xs = [[]0, 0, 0[]]"])
    result.stdout.fnmatch_lines(
        ["GENERATED *test_async?1?: 1 schedule played*", "GENERATED *test_method: 1 schedule played*"]
    )


def test_one_seed_draws_equal_schedules_in_every_process_and_each_test_has_its_own(project: pytest.Pytester) -> None:
    project.makepyfile(
        DRAWING
        + """
@settings(max_examples=8, database=None)
@given(xs=LISTS)
def test_one(resilience, xs):
    note_down("one", xs)

@settings(max_examples=8, database=None)
@given(xs=LISTS)
def test_two(resilience, xs):
    note_down("two", xs)
"""
    )
    drawn = []
    for options in (["--resilience-seed=5"], ["--resilience-seed=5", "-n2"], ["--resilience-seed=6"]):
        project.runpytest_subprocess(*options).assert_outcomes(passed=2)
        drawn.append((seen(project.path, "one"), seen(project.path, "two")))
    assert drawn[0] == drawn[1]
    assert drawn[0][0] != drawn[0][1]
    assert drawn[0][0] != drawn[2][0]


def test_the_profile_of_hypothesis_for_ci_freezes_nothing_and_keeps_the_database(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    project.makepyfile(
        DRAWING
        + """
@settings(max_examples=8)
@given(xs=LISTS)
def test_it(resilience, xs):
    note_down("it", xs)
    assert len(xs) < int(os.environ["LIMIT"])
"""
    )
    monkeypatch.setenv("LIMIT", "100")
    drawn = []
    for seed in (1, 2):
        project.runpytest_subprocess(f"--resilience-seed={seed}").assert_outcomes(passed=1)
        drawn.append(seen(project.path, "it"))
    assert drawn[0] != drawn[1]
    monkeypatch.setenv("LIMIT", "1")
    project.runpytest_subprocess().assert_outcomes(failed=1)
    result = project.runpytest_subprocess("--resilience-seed=9")
    result.stdout.fnmatch_lines(["GENERATED *: 1 schedule played*"])


def test_a_budget_in_seconds_ends_the_search(project: pytest.Pytester) -> None:
    project.makeconftest(
        """
from pytest_resilience.profiles import PROFILES
PROFILES["dev"] = PROFILES["dev"]._replace(search=1.0)
"""
    )
    project.makepyfile(
        DRAWING
        + """
import time

@given(xs=LISTS)
def test_it(resilience, xs):
    note_down("it", xs)
    time.sleep(0.2)
"""
    )
    result = project.runpytest_subprocess("--resilience-profile=dev", "--hypothesis-show-statistics")
    result.assert_outcomes(passed=1)
    assert 1 <= len(seen(project.path, "it")) <= 6
    result.stdout.fnmatch_lines(["*test_it:", "*during generate phase*"])


def test_skips_errors_of_the_set_up_and_interrupts_end_a_test_at_once(project: pytest.Pytester) -> None:
    project.makepyfile(
        DRAWING
        + """
import pytest

@given(xs=LISTS)
def test_skips(resilience, xs):
    note_down("skips", xs)
    pytest.skip("not here")

@given(xs=LISTS)
def test_set_up(resilience, xs):
    note_down("set_up", xs)
    resilience.redis.latency(seconds=-1)

@given(xs=LISTS)
def test_interrupted(resilience, xs):
    note_down("interrupted", xs)
    raise KeyboardInterrupt
"""
    )
    result = project.runpytest_subprocess("-rs")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["E *SetupError: *", "SKIPPED * not here", "*1 failed, 1 skipped*"])
    assert [len(seen(project.path, name)) for name in ("skips", "set_up", "interrupted")] == [1, 1, 1]


def test_a_broken_promise_shows_its_witness_a_timeline_and_the_schedule(project: pytest.Pytester) -> None:
    project.makepyfile(
        PLAYING
        + """
@given(schedule=schedules("redis.reset"))
def test_ids(resilience, schedule):
    resilience.play(schedule, Counter(), clients=2).check(unique_ids())
"""
    )
    result = project.runpytest_subprocess("--junitxml=junit.xml")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E *PromiseBroken: unique_ids: id 1 was acknowledged twice*",
            "E *witness of unique_ids:",
            "E *client *: create 1: ok",
            "E *timeline (? marks the witness):",
            "E *seconds  client *",
            "E *── redis.reset strikes ──*",
            "E *── redis.reset heals, touched * connections ──*",
            "E *schedule = Schedule([[]",
            "E *Step('redis.reset', at=operations(0), until=touched(1)),",
            "E *reproduced * of 10*",
            "E *history: .resilience/history/main/*test_ids.jsonl",
            "*redis.reset: * strikes, * hit",
        ]
    )
    found = properties(project.path)
    assert json.loads(found["resilience_strikes"])["redis.reset"]["hit"] > 0
    assert "resilience_strike" not in found
    assert float(found["resilience_recovered_s"]) > 0
    file = project.path / found["resilience_replay"]
    assert json.loads(file.read_text())["found"]["promise"].startswith("unique_ids: id 1")
    project.makepyfile(
        test_example=PLAYING
        + f"""
from hypothesis import example

@settings(max_examples=1)
@example(schedule=Schedule.load({str(file)!r}))
@given(schedule=schedules("redis.latency").filter(lambda schedule: False))
def test_example(resilience, schedule):
    resilience.play(schedule, Counter(), clients=2).check(unique_ids())
""".replace('"redis.latency"', '"redis.refuse"')
    )
    result = project.runpytest_subprocess("test_example.py")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *PromiseBroken: unique_ids*", "GENERATED *: 1 schedule played*"])


def test_only_a_fault_that_never_hit_in_the_whole_test_makes_it_vacuous(project: pytest.Pytester) -> None:
    project.makepyfile(
        DRAWING
        + """
import socket

def connect(server):
    try:
        socket.create_connection((server.host, server.port), timeout=1).close()
    except ConnectionRefusedError:
        pass

@settings(max_examples=6, database=None)
@given(n=st.integers(0, 100))
def test_half(resilience, n):
    with resilience.redis.refuse():
        connect(resilience.redis)
    resilience.postgres.reset()  # of a refusal, other processes of the machine can make the count unknown

@settings(max_examples=6, database=None)
@given(n=st.integers(0, 100))
def test_all(resilience, n):
    with resilience.redis.refuse():
        if n > 0:
            connect(resilience.redis)
"""
    )
    result = project.runpytest_subprocess("--junitxml=junit.xml", "--resilience-seed=1")
    result.stdout.fnmatch_lines(
        [
            "GENERATED *::test_half: 6 schedules played, 12 strikes, 6 hit; postgres.reset never hit",
            # refusals of other processes can make the count of the sixth unknown
            "GENERATED *::test_all: 6 schedules played, 6 strikes, 5 hit*",
            "VACUOUS *::test_half: postgres.reset affected nothing in 6 strikes",
        ]
    )
    result.stdout.fnmatch_lines(["*1 passed, 1 vacuous*"])
    strict = project.runpytest_subprocess("--resilience-strict", "--resilience-seed=1")
    strict.assert_outcomes(passed=1, errors=1)
    strict.stdout.fnmatch_lines(["*VACUOUS: postgres.reset affected nothing in *"])


def test_the_faults_of_markers_strike_in_each_example(project: pytest.Pytester) -> None:
    project.makepyfile(
        DRAWING
        + """
import pytest

@pytest.mark.fault("redis.latency", seconds=0.01)
@settings(max_examples=5, database=None)
@given(n=st.integers(0, 100))
def test_it(resilience, n):
    assert [each.label for each in resilience.strikes] == ["redis.latency(seconds=0.01)"]
"""
    )
    result = project.runpytest_subprocess()
    result.stdout.fnmatch_lines(
        ["GENERATED *: 5 schedules played, 5 strikes, 0 hit; redis.latency never hit", "*1 vacuous*"]
    )


def test_a_checker_in_an_ordinary_test_shows_its_witness_and_a_timeline(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        from pytest_resilience.checkers import unique_ids

        def test_it(resilience):
            client = resilience.history.client()
            for _ in range(2):
                client.invoke("create").ok(key="7")
            resilience.history.check(unique_ids())
        """
    )
    result = project.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["E *PromiseBroken: unique_ids: id 7 *", "E *witness of unique_ids:", "E *timeline*", "E * [*] *create 7: ok"]
    )


def test_a_test_with_given_and_without_the_fixture_is_left_to_hypothesis(project: pytest.Pytester) -> None:
    project.makepyfile(DRAWING + "\n@given(xs=LISTS)\ndef test_plain(xs):\n    assert len(xs) < 3\n")
    result = project.runpytest_subprocess()
    result.stdout.fnmatch_lines(["E *Failing test case: *"])
    result.stdout.no_fnmatch_line("GENERATED*")
