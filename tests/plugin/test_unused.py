"""A test fails that passes without having used what it called: a probe that is not awaited, a selection without an act."""

from __future__ import annotations

import pytest

CASES = {
    "eventually": (
        "eventually(question, within=1)",
        "eventually(...) at test_it.py:7 was never awaited*`await eventually(...)`",
    ),
    "recovers": (
        "assert recovers(question, within=1)",
        "recovers(...) at test_it.py:7 was never awaited*`await recovers(...)`",
    ),
    "a lambda": ("eventually(lambda: question(), within=1)", "eventually(...) at test_it.py:7 was never awaited*"),
    "cancel": (
        "resilience.redis.cancel(question)",
        "cancel(...) at test_it.py:7 was never awaited*`await cancel(...)`",
    ),
    "cancel_everywhere": (
        "resilience.redis.cancel_everywhere(question)",
        "cancel_everywhere(...) at test_it.py:7 was*",
    ),
    "play_async": ("resilience.play_async(None, None)", "play_async(...) at test_it.py:7 was never awaited*"),
    "ended": ("resilience.app(app).ended()", "ended(...) at test_it.py:7 was never awaited*"),
    "silence": ("resilience.silence(1)", "silence(...) at test_it.py:7 was never awaited, so no time has passed*"),
    "when": ("resilience.when('redis', idle=1)", "when(...) at test_it.py:7 was not used, so nothing has waited*"),
    "on": (
        "resilience.postgres.on('commit', nth=2)",
        "postgres.on('commit', nth=2) at test_it.py:7 has no act, *cut_answer*",
    ),
    "no_growth": (
        "resilience.no_growth()",
        "no_growth(...) at test_it.py:7 has no block*`with resilience.no_growth():`",
    ),
    "an incident": (
        "redis_failover(resilience)",
        "redis_failover(...) at test_it.py:7 was not iterated*`for phase in redis_failover(...):`",
    ),
    "first": ("resilience.redis.on('get').first(2)", "redis.on('get').first(2) at test_it.py:7 has no act*"),
    "after": ("resilience.redis.after('get')", "redis.after('get') at test_it.py:7 has no fault, *`.reset()`*"),
}
TEST = """
import asyncio, pytest; from pytest_resilience.incidents import redis_failover
from pytest_resilience import eventually, recovers
async def question(): return True
async def app(scope, receive, send): pass
@pytest.mark.asyncio
async def test_it(resilience):
    {body}
"""


@pytest.mark.parametrize("case", CASES)
def test_a_result_that_is_not_used_fails_the_test(project: pytest.Pytester, case: str) -> None:
    call, message = CASES[case]
    project.makepyfile(test_it=TEST.format(body=call))
    result = project.runpytest_subprocess("-W", "error")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"E *SetupError: {message}"])
    result.stdout.no_fnmatch_line("*plugin.py*")


def test_a_result_within_another_one_fails_the_test(project: pytest.Pytester) -> None:
    project.makepyfile(test_it=TEST.format(body="asyncio.wait_for(recovers(question, within=1), 5)"))
    result = project.runpytest_subprocess("-W", "default")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *SetupError: recovers(...) at test_it.py:7 was never awaited*"])


USED = """
import asyncio
import pytest
from pytest_resilience import SetupError, eventually, recovers

async def question(): return True

@pytest.fixture
def selects(resilience):
    return resilience.postgres.on("select"), resilience.redis.after("get"), resilience.when("redis", idle=1)

@pytest.fixture
def probe():
    return eventually(question, within=1)

@pytest.mark.asyncio
async def test_awaited_later(resilience):
    probes = [eventually(question, within=1), asyncio.wait_for(recovers(question, within=1), 5)]
    tasks = [asyncio.create_task(recovers(question, within=1))]
    assert all(await asyncio.gather(*probes, *tasks))

@pytest.mark.asyncio
async def test_awaited_from_a_fixture(resilience, probe):
    assert await probe

def test_run_in_a_loop_of_its_own(resilience):
    assert asyncio.run(eventually(question, within=1))

def test_closed(resilience):
    eventually(question, within=1).close()

def test_a_selection_of_a_fixture_may_stay_unused(selects):
    pass

def test_a_selection_is_used_by_its_acts(resilience):
    selection = resilience.redis.on("get", key="nothing")
    for strike in selection.first(1).hang(), selection.after(1).reset(), resilience.redis.after("get").reset():
        strike.heal()

def test_an_act_that_is_refused_is_used(resilience):
    with pytest.raises(SetupError):
        resilience.postgres.on("select").error("no such code")
    with pytest.raises(AttributeError):
        resilience.postgres.on("select").fail()

@pytest.mark.asyncio
async def test_moments(resilience):
    with pytest.raises(AssertionError):
        await resilience.when(lambda: False, within=0.01)
    with resilience.when("redis", answer=1):
        pass
    resilience.when(lambda: False).release()
    with resilience.no_growth():
        pass
    await resilience.silence(0.01)

def test_a_moment_in_a_sync_test(resilience):
    resilience.when(lambda: True).wait()
    resilience.when(lambda: False).strike("redis.reset").heal()
"""


def test_what_is_used_or_may_stay_unused_fails_no_test(project: pytest.Pytester) -> None:
    project.makepyfile(test_it=USED)
    result = project.runpytest_subprocess("-W", "error", "-v")
    assert result.ret == 0
    result.stdout.no_fnmatch_line("*FAILED*")


def test_a_sync_test_learns_that_its_question_is_async(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_it="""
        from pytest_resilience import recovers

        async def question():
            return False

        def test_it():
            assert recovers(question, within=1)

        def test_next():
            pass
        """
    )
    result = project.runpytest_subprocess("-W", "error")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(
        ["E *recovers(...) at test_it.py:7 was never awaited*pass a function that is not async in a sync one"]
    )


def test_a_failure_of_the_body_comes_first(project: pytest.Pytester) -> None:
    body = "recovers(question, within=1)\n    assert 'its own' == 'failure'"
    project.makepyfile(test_it=TEST.format(body=body) + "\ndef test_next(): pass")
    result = project.runpytest_subprocess("-W", "error")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["E *AssertionError: assert 'its own' == 'failure'"])
    result.stdout.no_fnmatch_line("*was never awaited*")
