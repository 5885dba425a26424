"""Receipts in the summary, and VACUOUS as an outcome or, under strict, an error. Both are in JUnit and work over xdist."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

TESTS = """
import socket, pytest

def ping(server):
    with socket.create_connection((server.host, server.port), timeout=1) as s:
        s.sendall(b"PING\\r\\n")
        return s.recv(10)

def test_hit(resilience):
    with resilience.redis.refuse():
        with pytest.raises(ConnectionRefusedError):
            ping(resilience.redis)

def test_missed(resilience):
    with resilience.redis.latency(seconds=0.01):
        pass

@pytest.mark.fault("redis.reset")
def test_marked_and_missed():
    pass

def test_around_the_proxy(resilience):
    '''The classic: the client was given the address of the server and not of the proxy.'''
    from urllib.parse import urlsplit
    direct = urlsplit(resilience.redis.direct_url)
    with resilience.redis.blackhole():
        with socket.create_connection((direct.hostname, direct.port), timeout=1) as s:
            s.sendall(b"PING\\r\\n")
            assert s.recv(10) == b"+PONG\\r\\n"
"""


def test_a_test_with_a_fault_that_affected_nothing_is_vacuous(project: pytest.Pytester) -> None:
    project.makepyfile(TESTS)
    result = project.runpytest_subprocess("-v", "--junitxml=junit.xml")
    assert result.ret == 0
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "*::test_hit PASSED*",
            "*::test_missed VACUOUS*",
            "*::test_marked_and_missed VACUOUS*",
            "*::test_around_the_proxy VACUOUS*",
            "*= resilience =*",
            "redis.blackhole: 1 strike, 1 affected nothing",
            "redis.latency: 1 strike, 1 affected nothing",
            "redis.refuse: 1 strike, all hit (1 connection)",
            "redis.reset: 1 strike, 1 affected nothing",
            "VACUOUS *::test_missed: redis.latency(seconds=0.01) affected no bytes",
            "*1 passed, 3 vacuous*",
        ]
    )
    cases = {case.get("name"): case for case in ET.parse(project.path / "junit.xml").iter("testcase")}
    properties = [(p.get("name"), p.get("value")) for p in cases["test_missed"].iter("property")]
    assert ("resilience_outcome", "vacuous") in properties
    assert any(name == "resilience_strike" and '"touched": 0' in str(value) for name, value in properties)


def test_vacuous_is_an_error_under_strict(project: pytest.Pytester) -> None:
    project.makepyfile(TESTS)
    result = project.runpytest_subprocess("--resilience-strict")
    assert result.ret == 1
    result.assert_outcomes(passed=1, errors=3)
    result.stdout.fnmatch_lines(["*VACUOUS: redis.latency(seconds=0.01) affected no bytes*", "*bypasses the proxy*"])


def test_a_failure_without_the_terminal_reporter_is_a_failure(project: pytest.Pytester) -> None:
    project.makepyfile("def test_it(resilience): assert False")
    result = project.runpytest_subprocess("-p", "no:terminal", "--junitxml=junit.xml")
    assert result.ret == 1
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    assert ET.parse(project.path / "junit.xml").find(".//failure") is not None


PLAYS = """
import pytest, redis.asyncio, socket
from pytest_resilience.schedule import Episode, Schedule, Step, operations, statement
from pytest_resilience.workloads import RedisRegisters

def play(resilience, *steps):
    return resilience.play(Schedule([Episode(steps, operations=6)]), RedisRegisters(redis.asyncio.Redis.from_url))

def test_too_late(resilience):
    play(resilience, Step("redis.refuse", at=operations(100)))

def test_no_such_table(resilience):
    play(resilience, Step("postgres.hold_locks", {"tables": "nosuch"}))

def test_one_of_two(resilience):
    play(resilience, Step("redis.latency", {"seconds": 0.01}), Step("redis.refuse", at=statement("gett")))

def test_code_strikes_too(resilience):
    play(resilience, Step("redis.refuse", at=operations(100)))
    with resilience.redis.refuse(), pytest.raises(OSError):
        socket.create_connection((resilience.redis.host, resilience.redis.port))

def test_without_steps(resilience):
    play(resilience)
"""


def test_a_play_in_which_no_step_strikes_is_vacuous(project: pytest.Pytester) -> None:
    project.makepyfile(PLAYS)
    result = project.runpytest_subprocess("-v", "-p", "no:randomly", "--junitxml=junit.xml")
    assert result.ret == 0
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        [
            "*::test_too_late VACUOUS*",
            "*::test_no_such_table VACUOUS*",
            "VACUOUS *::test_too_late: redis.refuse did not strike: the work ended before operations(100)",
            "VACUOUS *::test_no_such_table: postgres.hold_locks did not strike: *no such table: nosuch*",
            "NOT STRUCK *::test_one_of_two: redis.refuse did not strike: the work ended before statement('gett', 1)",
            "NOT STRUCK *::test_code_strikes_too: redis.refuse did not strike: the work ended before operations(100)",
        ]
    )
    cases = {case.get("name"): case for case in ET.parse(project.path / "junit.xml").iter("testcase")}
    properties = [(p.get("name"), p.get("value")) for p in cases["test_too_late"].iter("property")]
    assert ("resilience_outcome", "vacuous") in properties


SEVERAL_PLAYS = (
    PLAYS.partition("def test_")[0]
    + """
LATE = Step("redis.refuse", at=operations(100))
LATENCY = Step("redis.latency", {"seconds": 0.01})
"""
)
LATE = "redis.refuse did not strike: the work ended before operations(100)"


def not_struck(result: pytest.RunResult) -> list[str]:
    found = [line.partition(" ") for line in result.outlines if "did not strike" in line]
    return sorted(f"{kind} {text.rpartition('::')[2]}" for kind, _, text in found)


def test_the_steps_of_all_plays_of_a_test_are_judged(project: pytest.Pytester) -> None:
    project.makepyfile(
        SEVERAL_PLAYS
        + """
def test_two_misses(resilience):
    play(resilience, LATE, LATENCY)
    play(resilience, Step("redis.reset", at=operations(200)))
    play(resilience, LATENCY)

def test_nothing_strikes(resilience):
    play(resilience, LATE)
    play(resilience)
"""
    )
    result = project.runpytest_subprocess()
    assert not_struck(result) == [
        f"NOT test_two_misses: {LATE}",
        "NOT test_two_misses: redis.reset did not strike: the work ended before operations(200)",
        f"VACUOUS test_nothing_strikes: {LATE}",
    ]


@pytest.mark.skipif(not hasattr(pytest, "Subtests"), reason="pytest has subtests from version 9 on")
def test_a_test_is_judged_when_all_its_subtests_have_ended(project: pytest.Pytester) -> None:
    project.makepyfile(
        SEVERAL_PLAYS
        + """
def test_second_strikes(resilience, subtests):
    with subtests.test("late"):
        play(resilience, LATE)
    with subtests.test("latency"):
        play(resilience, LATENCY)

def test_first_strikes(resilience, subtests):
    with subtests.test("latency"):
        play(resilience, LATENCY)
    with subtests.test("late"):
        play(resilience, LATE)
"""
    )
    result = project.runpytest_subprocess()
    assert not_struck(result) == [f"NOT test_first_strikes: {LATE}", f"NOT test_second_strikes: {LATE}"]


@pytest.mark.skipif(not hasattr(pytest, "Subtests"), reason="pytest has subtests from version 9 on")
def test_the_report_of_a_subtest_shows_a_fault_that_lasts(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
def test_it(resilience, subtests):
    with resilience.redis.latency(0.01), subtests.test("fails"):
        assert False
"""
    )
    result = project.runpytest_subprocess()
    result.stdout.fnmatch_lines(["redis.latency(seconds=0.01) affected no bytes; it lasts"])
    result.stdout.no_fnmatch_line("*could not be healed*")


def test_a_play_in_which_no_step_strikes_is_an_error_under_strict(project: pytest.Pytester) -> None:
    project.makepyfile(PLAYS)
    result = project.runpytest_subprocess("--resilience-strict", "-k", "late or two")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*VACUOUS: redis.refuse did not strike: the work ended before operations(100)*"])


def test_one_summary_and_one_seed_over_xdist(project: pytest.Pytester) -> None:
    project.makepyfile(
        TESTS
        + """
def test_seed(resilience_stack, record_property, worker_id):
    record_property("seen", f"{worker_id} {resilience_stack.seed} {resilience_stack.redis.port}")

def test_seed_again(resilience_stack, record_property, worker_id):
    record_property("seen", f"{worker_id} {resilience_stack.seed} {resilience_stack.redis.port}")
"""
    )
    result = project.runpytest_subprocess("-n2", "--resilience-seed=42", "--junitxml=junit.xml", "--dist=each")
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines(["redis.refuse: 2 strikes, all hit (2 connections)", "*6 passed, 6 vacuous*"])
    seen = {p.get("value") for p in ET.parse(project.path / "junit.xml").iter("property") if p.get("name") == "seen"}
    workers = {str(s).split()[0]: str(s).split()[1:] for s in seen}
    assert set(workers) == {"gw0", "gw1"}
    assert {seed for seed, _ in workers.values()} == {"42"}
    assert len({port for _, port in workers.values()}) == 2, "each worker has its own stack"


def test_a_failure_shows_the_injected_faults_and_the_log_of_the_service(shop: pytest.Pytester) -> None:
    shop.makepyfile(
        """
        from pytest_resilience import eventually

        def test_it(resilience):
            with resilience.redis.refuse():
                eventually(lambda: resilience.service.get("/redis").status_code == 200, within=0.3)
        """
    )
    result = shop.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E *eventually(lambda: resilience.service.get*was not true within 0.3 s",
            "E *asked * in *",
            "E *last answer: False",
            "E *active strikes: redis.refuse (before the probe)",
            "*- resilience: injected faults -*",
            "redis.refuse affected * connection*",
            "*- resilience: service log -*",
            "shop: open",
            "shop: failed with ConnectionError",
            "*- resilience: all logs -*",
            "*.resilience*logs*test_it.log",
        ]
    )
    log = next((shop.path / ".resilience" / "logs").iterdir()).read_text()
    assert all(f"===== {source} =====" in log for source in ("strikes", "service", "postgres", "redis"))
    assert (shop.path / ".resilience" / ".gitignore").read_text().endswith("*\n")


def test_a_run_without_strikes_has_no_summary(project: pytest.Pytester) -> None:
    project.makepyfile("def test_it(): pass")
    result = project.runpytest_subprocess()
    result.stdout.no_fnmatch_line("*= resilience =*")
    assert not (project.path / ".resilience").exists()
