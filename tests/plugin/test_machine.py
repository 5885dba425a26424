"""State machines on the real stack."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest

MACHINE = '''
import redis
from hypothesis import settings, strategies as st
from hypothesis.stateful import Bundle, precondition, rule
from pytest_resilience.checkers import no_lost_writes
from pytest_resilience.machine import Operate, Program, ResilienceMachine
from pytest_resilience.profiles import PROFILES
from pytest_resilience.schedule import Episode, Schedule, Step, end, operations, touched

PROFILES["dev"] = PROFILES["dev"]._replace(search=SEARCH)
settings.register_profile("here", database=None)
settings.load_profile("here")

class Notes:
    """Notes in Redis. The client acknowledges a write that Redis has refused."""
    kinds = ("update", "read")
    acknowledges_errors = True

    def begin(self, resilience):
        self.redis = redis.Redis.from_url(resilience.redis.url, socket_timeout=1, retry=None)

    def kind(self, n):
        return self.kinds[n % 2]

    def perform(self, client, kind, n):
        self.execute(client, kind, f"recovery-{client.process}", "r")

    def execute(self, client, kind, key, value):
        value = f"{value}{client.process}.{len(client.history.operations)}" if kind == "update" else None
        call = client.invoke(kind, key=key, value=value)
        try:
            found = self.redis.set(key, value) if kind == "update" else self.redis.get(key)
        except redis.RedisError as error:
            call.ok() if self.acknowledges_errors and kind == "update" else call.info(error)
        else:
            call.ok(value=value if kind == "update" else found and found.decode())

    def read_all(self, client):
        for key in self.redis.keys():
            self.execute(client, "read", key.decode(), None)

    def end(self):
        self.redis.close()

class Machine(ResilienceMachine):
    step_count = 8
    struck = Bundle("struck")

    @rule(key=st.sampled_from("ab"))
    def write(self, key):
        self.operate("update", key=key, value="w")

    @rule(key=st.sampled_from("ab"))
    def read(self, key):
        self.operate("read", key=key)

    @rule(target=struck)
    def outage(self):
        return self.strike("redis.refuse")

    @rule(strike=struck)
    def end_of_outage(self, strike):
        self.heal(strike)

    @rule()
    @precondition(lambda self: self.can_end_episode)
    def quiet_time(self):
        self.end_episode()

    def check(self, history):
        history.check(no_lost_writes())
'''
LIKE_A_USER = ("-n", "0", "--resilience-profile=dev", "--junitxml=junit.xml")


def properties(project: pytest.Pytester) -> dict[str, str]:
    tree = ET.parse(project.path / "junit.xml")
    return {each.get("name", ""): each.get("value", "") for each in tree.iter("property")}


def test_a_planted_bug_is_found_explained_and_replayed(project: pytest.Pytester) -> None:
    source = MACHINE.replace("SEARCH", "30.0")
    project.makepyfile(test_notes=source + "\ndef test_buggy(resilience):\n    Machine.run(resilience, Notes())\n")
    result = project.runpytest_subprocess(*LIKE_A_USER)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E *PromiseBroken: no_lost_writes: key ?: value *",
            "E *witness of no_lost_writes:",
            "E *── redis.refuse strikes ──*",
            "E *program = Program(",
            "E *found after * schedule*, * s; reproduced * of 10*",
            "E *replay it: history = program.play(resilience, workload) in a test, then the assertions of Machine.check",
            "E *history: .resilience/history/main/test_notes.py-test_buggy.jsonl",
            "GENERATED *::test_buggy: * schedules played, * hit; reproduced * of 10",
        ]
    )
    found = properties(project)
    assert found["resilience_outcome"] == "broken"
    assert found["resilience_found_after"].split()[1].startswith("schedule")
    assert json.loads(found["resilience_strikes"])["redis.refuse"]["hit"] > 0

    shown = [line.removeprefix("E       ") for line in result.outlines]
    program = "\n".join(shown[shown.index("program = Program(") : shown.index(")") + 1])
    replay = "\n".join(f"    {line}" for line in [*program.splitlines(), "workload = Notes()", *REPLAY])
    project.makepyfile(test_notes=f"{source}\ndef test_replay(resilience):\n{replay}\n")
    result = project.runpytest_subprocess(*LIKE_A_USER)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E *PromiseBroken: no_lost_writes: key *",
            "E *history: .resilience/history/main/test_notes.py-test_replay.jsonl",
        ]
    )


REPLAY = (  # as Python in the replaying test; the bug needs the clients in one order, which nearly all plays have
    "for _ in range(10):",
    "    history = program.play(resilience, workload)",
    "    history.check(no_lost_writes())",
)


def test_a_healthy_client_passes(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_notes=MACHINE.replace("SEARCH", "8.0").replace("acknowledges_errors = True", "acknowledges_errors = False")
        + "\ndef test_healthy(resilience):\n    Machine.run(resilience, Notes())\n"
    )
    result = project.runpytest_subprocess(*LIKE_A_USER)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["GENERATED *::test_healthy: * schedules played, * strikes, * hit"])
    found = properties(project)
    assert "resilience_outcome" not in found
    assert int(found["resilience_schedules"]) > 1


def test_a_machine_whose_faults_never_hit_is_vacuous(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_notes=MACHINE.replace("SEARCH", "8.0").replace("redis.refuse", "postgres.reset")
        # A busy machine plays few schedules in that time. The unit tests of vacuity have the real number.
        + "\nfrom pytest_resilience.generated import vacuity\nvacuity.ENOUGH_OF_TARGET = 1\n"
        + "\ndef test_vacuous(resilience):\n    Machine.run(resilience, Notes())\n"
    )
    result = project.runpytest_subprocess(*LIKE_A_USER, "--resilience-strict")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*VACUOUS: postgres.reset affected nothing in *"])
