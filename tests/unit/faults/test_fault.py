"""Faults as plain data, and strikes that heal once and keep their receipt."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import psutil
import pytest

from pytest_resilience import HealFailed, ProcessEnded, SetupError
from pytest_resilience.faults import FAULTS, Fault, Receipt, Strike, from_json
from pytest_resilience.faults.fault import Need, Undo
from pytest_resilience.faults.network import Blackhole, Latency, Refuse
from pytest_resilience.faults.process import Kill, Pause, ProcessFault, Restart, Terminate
from pytest_resilience.step_faults import TARGET_KINDS
from pytest_resilience.targets.target import StrikeRegistry, Target


class FakeStrike:
    """A strike with a count of its heals and a receipt that the test sets."""

    def __init__(self, *, failing: bool = False, touched: int | None = 1) -> None:
        self.healed = 0
        self.failing = failing
        self.touched = touched
        self.strike = Strike(
            "redis.refuse", Refuse(), heal=self.heal, read_receipt=lambda: Receipt(self.touched, "connections")
        )

    def heal(self) -> None:
        if self.failing:
            raise ConnectionError("the proxy is gone")
        self.healed += 1


def test_the_end_of_the_block_heals() -> None:
    fake = FakeStrike()
    with fake.strike as strike:
        assert strike is fake.strike
        assert fake.healed == 0
    assert fake.healed == 1


def test_healing_twice_heals_once() -> None:
    fake = FakeStrike()
    fake.strike.heal()
    fake.strike.heal()
    assert fake.healed == 1


def test_an_exception_in_the_block_heals_and_propagates() -> None:
    fake = FakeStrike()
    with pytest.raises(KeyError), fake.strike:
        raise KeyError
    assert fake.healed == 1


def test_a_failed_heal_is_reported_and_can_be_repeated() -> None:
    fake = FakeStrike(failing=True)
    with pytest.raises(HealFailed, match=r"redis.refuse could not be healed: ConnectionError: the proxy is gone"):
        fake.strike.heal()
    fake.failing = False
    fake.strike.heal()
    assert fake.healed == 1


def test_a_failed_heal_does_not_hide_the_failure_of_the_block() -> None:
    fake = FakeStrike(failing=True)
    with pytest.raises(AssertionError, match="first failure") as failure, fake.strike:
        raise AssertionError("first failure")
    assert any("could not be healed" in note for note in failure.value.__notes__)


def test_a_strike_heals_although_its_receipt_cannot_be_read() -> None:
    healed: list[int] = []

    def read_receipt() -> Receipt:
        raise ConnectionError("no counters")

    strike = Strike("redis.refuse", Refuse(), heal=lambda: healed.append(1), read_receipt=read_receipt)
    with pytest.raises(HealFailed, match="receipt is lost"):
        strike.heal()
    assert healed == [1]
    assert strike.healed


def test_the_receipt_changes_until_the_heal_and_not_after_it() -> None:
    fake = FakeStrike(touched=1)
    assert fake.strike.receipt.touched == 1
    fake.touched = 5
    assert fake.strike.receipt.touched == 5
    fake.strike.heal()
    fake.touched = 0
    assert fake.strike.receipt.touched == 5


@pytest.mark.parametrize(("touched", "vacuous"), [(0, True), (1, False), (None, False)])
def test_only_a_healed_strike_with_a_receipt_of_0_is_vacuous(touched: int | None, vacuous: bool) -> None:
    fake = FakeStrike(touched=touched)
    assert not fake.strike.vacuous, "the strike is not healed yet"
    fake.strike.heal()
    assert fake.strike.vacuous is vacuous


def test_a_failed_heal_does_not_prevent_other_heals() -> None:
    first, second, third = FakeStrike(), FakeStrike(failing=True), FakeStrike()
    ledger = StrikeRegistry()
    ledger.strikes += [first.strike, second.strike, third.strike]
    with pytest.raises(HealFailed, match="the proxy is gone"):
        ledger.heal()
    assert (first.healed, third.healed) == (1, 1)


def test_a_label_names_the_settings_that_were_given() -> None:
    target = Target("postgres", StrikeRegistry())
    assert Refuse().label(target) == "postgres.refuse"
    assert Latency(0.2).label(target) == "postgres.latency(seconds=0.2)"
    assert Blackhole("down").label(target) == "postgres.blackhole(direction='down')"


@pytest.mark.parametrize("wrong", [-1, 0, 0.0001, "1", None, True, float("nan"), float("inf")])
def test_a_wrong_latency_is_refused_at_once(wrong: Any) -> None:
    with pytest.raises(SetupError, match=r"seconds must be at least 0\.001"):
        Latency(wrong)


@pytest.mark.parametrize(
    ("receipt", "text"),
    [
        (Receipt(0, "bytes"), "affected no bytes"),
        (Receipt(None, "connections"), "affected an unknown number of connections"),
        (Receipt(1, "processes", 0.0, 0.0), "affected 1 process, first after 0.000 s, last after 0.000 s"),
        (Receipt(3, "connections", 0.5, 1.25), "affected 3 connections, first after 0.500 s, last after 1.250 s"),
    ],
)
def test_a_receipt_reads_as_a_sentence(receipt: Receipt, text: str) -> None:
    assert str(receipt) == text


def test_every_fault_has_its_own_name_and_targets() -> None:
    assert {name: kind.name for name, kind in FAULTS.items()} == {name: name for name in FAULTS}
    assert all(set(kind.targets) <= set(TARGET_KINDS) and kind.targets for kind in FAULTS.values())


SETTINGS: dict[str, list[dict[str, Any]]] = {
    "blackhole": [{}, {"direction": "up"}],
    "latency": [{"seconds": 0.2}, {"seconds": 1, "jitter": 0.5}],
    "bandwidth": [{"bytes_per_s": 1000}],
    "queue_full": [{"queue": "jobs"}, {"queue": "jobs", "vhost": "shop"}],
    "slow_close": [{"seconds": 0.1}],
    "slicer": [{}, {"average_bytes": 3, "variation_bytes": 1, "delay": 0.01}],
    "limit_data": [{"bytes": 10}],
    "flap": [{}, {"down": 2, "up": 3, "unit": "connections"}],
    "slow_accept": [{"seconds": 0.1}],
    "on": [
        {"verb": "commit", "act": "lose_answer"},
        {"verb": "GET", "act": "error", "code": "LOADING", "key": "campaign:*", "first": 3},
        {"verb": "select", "act": "cut_answer", "rows": 2, "application_name": "service:*"},
        {"verb": "insert", "act": "delay", "seconds": 0.1, "per_connection": True},
    ],
    "after": [
        {"verb": "exec", "n": 2, "fault": "refuse"},
        {"verb": "commit", "fault": "latency", "settings": {"seconds": 0.1}},
    ],
    "commit_in_doubt": [{}, {"nth": 2}],
    "serialization_failure": [{}, {"nth": 2, "matching": "orders"}],
    "deadlock": [{}, {"nth": 2}],
    "loading_replies": [{}, {"commands": 1}],
    "restart": [{}, {"data": "kept"}],
    "starve": [{"connections": 3}, {"lock": "orders"}],
    "take_connections": [{}, {"left": 2}],
    "hold_locks": [{}, {"tables": "orders"}, {"tables": ("orders", "plans")}, {"tables": ["orders"]}],
    "slow_queries": [{"seconds": 0.1}, {"seconds": 0.1, "tables": ["orders", "plans"]}],
    "readonly": [{}, {"stale": False}],
    "max_clients": [{}, {"left": 2}],
    "client_kill_output_buffer": [{}, {"bytes": 1000}],
    "memory_pressure": [{"headroom_mb": 8}],
    "memory_limit": [{"headroom_mb": 8.5}],
    "exhaust_descriptors": [{}, {"left": 3}],
    "starve_cpu": [{}, {"share": 0.2}],
}
EACH = [FAULTS[name](**settings) for name in FAULTS for settings in SETTINGS.get(name, [{}])]


@pytest.mark.parametrize("fault", EACH, ids=repr)
def test_a_fault_is_equal_after_a_round_trip_through_json(fault: Fault) -> None:
    text = json.dumps(fault.to_json())
    assert from_json(json.loads(text)) == fault
    assert hash(from_json(json.loads(text))) == hash(fault)


def test_json_has_the_settings_that_differ_from_their_defaults() -> None:
    assert Refuse().to_json() == {"fault": "refuse", "settings": {}}
    assert Latency(0.2).to_json() == {"fault": "latency", "settings": {"seconds": 0.2}}
    assert from_json({"fault": "refuse"}) == Refuse()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"fault": "latancy"}, "no fault named 'latancy'; did you mean 'latency'?"),
        ({"fault": "latency"}, "fault 'latency': .*missing .*'seconds'"),
        ({"fault": "latency", "settings": {"ms": 2}}, "fault 'latency': .*unexpected .*'ms'"),
        ({"fault": "latency", "settings": {"seconds": 0}}, "seconds must be at least"),
    ],
)
def test_json_that_describes_no_fault_is_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(SetupError, match=message):
        from_json(data)


def test_faults_that_no_heal_undoes_are_known() -> None:
    assert {name for name, kind in FAULTS.items() if not kind.heals} == {
        "terminate_backends",
        "crash",
        "flush",
        "close_connections",
    }


@pytest.mark.parametrize(("kind", "heals"), [(Kill, False), (Terminate, False), (Restart, False), (Pause, True)])
def test_a_process_that_only_the_user_can_start_is_not_healed_from_its_end(
    kind: type[ProcessFault], heals: bool
) -> None:
    foreign = SimpleNamespace(process_control=SimpleNamespace(can_start=False))
    own = SimpleNamespace(process_control=SimpleNamespace(can_start=True))
    assert kind().heals_on(foreign) is heals
    assert kind().heals_on(own)


class FakeProcesses:
    """A process that can be killed and paused."""

    can_start = True

    def __init__(self) -> None:
        self.pid = 1
        self.runs = True
        self.paused = False
        self.failing = False

    def processes(self) -> list[int]:
        return [self.pid] if self.runs else []

    def kill(self) -> None:
        self.runs = False
        if self.failing:
            raise ConnectionError("no supervisor")

    def terminate(self) -> None:
        self.runs = False

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def start(self) -> None:
        if not self.runs:
            self.runs, self.paused, self.pid = True, False, self.pid + 1


class FakeTarget(Target):
    """A target with one process and a fault that needs it to answer."""

    def __init__(self, registry: StrikeRegistry | None = None) -> None:
        super().__init__("redis", registry or StrikeRegistry())
        self.process_control = FakeProcesses()


@dataclass(frozen=True)
class Configure(Fault):
    """A fault that needs a target which answers."""

    name: ClassVar[str] = "configure"
    targets: ClassVar[tuple[str, ...]] = ()
    unit: ClassVar[str] = "commands"
    error: Exception | None = None

    def strike_needs(self) -> tuple[Need, ...]:
        return ("process", "answers")

    def heal_needs(self) -> tuple[Need, ...]:
        return ("answers",)

    def strike(self, target: FakeTarget) -> Strike:
        if self.error is not None:
            raise self.error
        return target.register(
            Strike(self.label(target), self, heal=lambda: None, read_receipt=lambda: Receipt(3, "commands"))
        )


def test_a_strike_that_another_one_prevents_names_it() -> None:
    target = FakeTarget()
    with Pause().strike(target), pytest.raises(SetupError) as raised:
        Configure().strike(target)
    assert str(raised.value) == (
        "redis.configure cannot strike while redis.pause lasts: the processes of redis are stopped; heal redis.pause first"
    )
    with Kill().strike(target), pytest.raises(SetupError, match=r"while redis\.kill lasts: redis is not running"):
        Pause().strike(target)
    assert Configure().strike(target).in_force


def test_a_heal_that_another_strike_prevents_names_it_and_works_after_it() -> None:
    target = FakeTarget()
    configured, pause = Configure().strike(target), Pause().strike(target)
    assert configured.receipt == Receipt(None, "commands")
    with pytest.raises(
        HealFailed, match=r"redis\.configure cannot heal while redis\.pause lasts: .* are stopped"
    ) as raised:
        configured.heal()
    assert raised.value.blocked_by == ("redis.pause",)
    assert not configured.healed
    pause.heal()
    configured.heal()
    assert configured.receipt.touched == 3


def test_a_foreign_error_of_a_strike_is_a_setup_error_of_one_line() -> None:
    with pytest.raises(SetupError) as raised:
        Configure(ConnectionRefusedError("refused\nby the kernel")).strike(FakeTarget())
    assert str(raised.value).endswith(" cannot strike: ConnectionRefusedError: refused")


class EndedTarget(FakeTarget):
    """A target whose process has ended."""

    def ended(self) -> ProcessEnded:
        return ProcessEnded("redis", 7, remedy="Start it.", exit_code=1, ago=2.0, log="no memory")


@pytest.mark.parametrize("error", [psutil.NoSuchProcess(7), ProcessEnded("redis", 7, remedy="Start it.")])
def test_a_process_that_ends_during_a_strike_is_described(error: Exception) -> None:
    with pytest.raises(ProcessEnded) as raised:
        Configure(error).strike(EndedTarget())
    assert str(raised.value).endswith(
        " cannot strike: redis is not running: process 7 has ended with exit code 1, 2.00 s ago\n"
        "  Start it.\n  its log, last lines:\n    no memory"
    )


def test_strikes_of_the_session_overlap_with_those_of_a_test() -> None:
    session = StrikeRegistry()
    pause = Pause().strike(FakeTarget(session))
    target = FakeTarget(StrikeRegistry(session))
    with pytest.raises(SetupError, match=r"while redis\.pause lasts"):
        Configure().strike(target)
    pause.heal()
    Configure().strike(target)


def test_the_first_heal_of_two_pauses_does_not_end_the_second() -> None:
    target = FakeTarget()
    first, second = Pause().strike(target), Pause().strike(target)
    first.heal()
    assert target.process_control.paused
    second.heal()
    assert not target.process_control.paused


def test_a_pause_of_processes_that_are_gone_prevents_nothing() -> None:
    target = FakeTarget()
    paused = Pause().strike(target)
    Kill().strike(target).heal()
    assert not paused.in_force
    Configure().strike(target)
    again = Pause().strike(target)
    again.heal()
    assert not target.process_control.paused


def test_the_heal_of_a_restart_does_not_undo_a_later_kill() -> None:
    target = FakeTarget()
    restart, kill = Restart().strike(target), Kill().strike(target)
    restart.heal()
    assert not target.process_control.runs
    kill.heal()
    assert target.process_control.runs


def test_a_strike_that_fails_half_way_undoes_its_half() -> None:
    target = FakeTarget()
    target.process_control.failing = True
    with pytest.raises(SetupError, match=r"redis\.kill cannot strike: ConnectionError: no supervisor"):
        Kill().strike(target)
    assert target.process_control.runs
    assert target.active_strikes() == []


def test_a_registry_heals_once_more_what_another_strike_prevented() -> None:
    registry = StrikeRegistry()
    target = FakeTarget(registry)
    Pause().strike(target)
    target.process_control.runs = False  # as if a test had killed the process itself and started another one
    configured = Configure().strike(target)
    target.process_control.runs = True
    registry.heal()
    assert configured.healed


def test_an_undo_continues_with_the_step_that_failed() -> None:
    ran: list[str] = []
    undo = Undo()

    def second() -> None:
        ran.append("second")
        if ran.count("second") == 1:
            raise ConnectionError

    undo.add(lambda: ran.append("first"))
    undo.add(second)
    undo.add(lambda: ran.append("third"))
    with pytest.raises(ConnectionError):
        undo()
    undo()
    undo()
    assert ran == ["third", "second", "second", "first"]


@pytest.mark.parametrize(
    ("fault", "setting"),
    [
        ("starve", "connections"),
        ("take_connections", "left"),
        ("max_clients", "left"),
        ("exhaust_descriptors", "left"),
        ("limit_data", "bytes"),
        ("client_kill_output_buffer", "bytes"),
    ],
)
def test_a_number_of_things_is_whole(fault: str, setting: str) -> None:
    with pytest.raises(SetupError, match=rf"^{setting} must be a whole number of .*, got 1\.5"):
        FAULTS[fault](**{setting: 1.5})


def test_a_setting_that_is_too_large_is_named() -> None:
    with pytest.raises(SetupError, match=r"^seconds must be at most 1e\+12, got 1e\+308"):
        FAULTS["latency"](seconds=1e308)
