"""The faults of a failed test last while pytest's debugger (--pdb) shows its failure, and heal however the debugger is left."""

from __future__ import annotations

import sys

import pytest

TEST = """
import socket
import pytest

def is_refused(server):
    try:
        socket.create_connection((server.host, server.port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False

@pytest.fixture
def late(resilience):
    yield
    print("teardown: refused:", is_refused(resilience.redis))

@pytest.mark.fault("redis.refuse")
def test_fails(resilience, late):
    assert is_refused(resilience.redis)
    assert "the body" == "wrong"

{last}
"""
LAST = """
def test_next(resilience):
    assert not is_refused(resilience.redis)
"""
QUESTION = b"print('debugger: refused:', is_refused(resilience.redis))\n"


def debug(project: pytest.Pytester, *commands: bytes, test: str = TEST) -> pytest.RunResult:
    """Run the tests under --pdb with the commands as standard input of the debugger."""
    project.makepyfile(test_it=test.format(last=LAST))
    command = (sys.executable, "-m", "pytest", "--pdb", "-s", "--color=no")
    return project.run(*command, timeout=60, stdin=b"".join(commands))


def test_the_fault_of_a_failed_test_lasts_while_the_debugger_is_open(project: pytest.Pytester) -> None:
    result = debug(project, QUESTION, b"c\n")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(
        [
            "*debugger: refused: True",
            "*teardown: refused: False*",
            "redis.refuse: 1 strike, all hit (1 connection)",
        ]
    )


@pytest.mark.parametrize("leave", [b"q\n", b""], ids=["quit", "end of input"])
def test_a_debugger_that_ends_the_run_leaves_no_fault_to_the_teardown(project: pytest.Pytester, leave: bytes) -> None:
    result = debug(project, QUESTION, leave)
    result.stdout.fnmatch_lines(["*debugger: refused: True", "*teardown: refused: False*"])
    result.stdout.fnmatch_lines(["*Exit: Quitting debugger*"])


def test_the_fault_of_a_failed_fixture_lasts_too(project: pytest.Pytester) -> None:
    test = TEST.replace("    yield\n", "    assert is_refused(resilience.redis)\n    yield\n")
    test = test.replace('@pytest.mark.fault("redis.refuse")\n', "")
    test = test.replace(
        "@pytest.fixture\ndef late(resilience):\n",
        "@pytest.fixture\ndef late(resilience):\n    resilience.postgres.refuse()\n",
    )
    result = debug(project, b"print('debugger: refused:', is_refused(resilience.postgres))\n", b"c\n", test=test)
    result.assert_outcomes(errors=1, passed=1)
    result.stdout.fnmatch_lines(["*debugger: refused: True", "postgres.refuse: 1 strike, 1 affected nothing"])


def test_a_heal_that_fails_after_the_debugger_is_an_error_of_the_teardown(project: pytest.Pytester) -> None:
    break_heal = b"resilience.strikes[0]._heal = lambda: 1 / 0\n"
    result = debug(project, break_heal, b"c\n", b"c\n")
    result.assert_outcomes(failed=1, passed=1, errors=1)
    result.stdout.fnmatch_lines(["*HealFailed: redis.refuse could not be healed: ZeroDivisionError*"])


@pytest.mark.parametrize("body", ["pytest.xfail('known')", "pytest.skip('not here')"])
def test_what_is_not_debugged_heals_at_once(project: pytest.Pytester, body: str) -> None:
    result = debug(project, test=TEST.replace('assert "the body" == "wrong"', body))
    result.stdout.fnmatch_lines(["*teardown: refused: False*", "redis.refuse: 1 strike, all hit (1 connection)"])
    assert result.ret == 0
