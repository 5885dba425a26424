"""A state machine writes a program, which is played at the end, and shrinks although the system is not deterministic."""

from __future__ import annotations

import functools
import itertools
import re
from types import SimpleNamespace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, precondition, rule

from pytest_resilience import machine, schedule
from pytest_resilience import program as programs
from pytest_resilience.drawn_kinds import set_unsupported
from pytest_resilience.errors import CannotInject, ScheduleError, SetupError
from pytest_resilience.generated.search import Search
from pytest_resilience.history import History
from pytest_resilience.machine import ResilienceMachine
from pytest_resilience.profiles import PROFILES
from pytest_resilience.program import Operate, Program, ProgramBuilder, script_of
from pytest_resilience.schedule import Episode, Schedule, Step, operations, touched
from pytest_resilience.strategies import steps
from tests.support.clocks import FakeClock


class Shop:
    """A workload that notes what it performs."""

    kinds = ("update", "read")

    def __init__(self):
        self.performed = []

    def begin(self, resilience):
        self.performed.clear()

    def kind(self, n):
        return "read"

    def perform(self, client, kind, n):
        self.performed.append((kind, n))

    def execute(self, client, kind, key, value):
        self.performed.append((kind, key, value))

    def read_all(self, client):
        pass

    def end(self):
        pass


class FakeResilience:
    """A system that performs the operations of a schedule one after the other."""

    seed = 1
    profile = None

    def __init__(self, clock=None):
        self.clock = clock
        self.unsupported = {"postgres.kill": "a managed Postgres can't be killed"}
        self.played = []
        self.examples = 0
        self.history = History()
        self.strikes = []
        self.tally = {}
        self.properties = []
        self.written = None

    def write_history(self, history):
        self.written = history
        return "shop.jsonl"

    def begin_example(self):
        self.examples += 1
        self.history = History()

    def end_example(self):
        pass

    def play(self, schedule, workload, clients=None, *, recovery):
        self.played.append(schedule)
        if self.clock is not None:
            self.clock.time += 1
        workload.begin(self)
        self.history.begin_phase("baseline", 1)
        workload.perform(self.history.client(), "update", 0)
        for number, episode in enumerate(schedule.episodes, start=1):
            self.history.begin_phase("run", number)
            for n in range(episode.operations):
                workload.perform(self.history.client(), workload.kind(n), n)
        self.history.begin_phase("recovery", len(schedule.episodes))
        workload.perform(self.history.client(), "update", 0)
        return self.history


class Machine(ResilienceMachine):
    strikes = Bundle("strikes")
    broken = staticmethod(lambda program: False)

    @rule(key=st.sampled_from("ab"))
    def write(self, key):
        self.operate("update", key=key, value="v")

    @rule()
    def read(self):
        self.operate("read")

    @rule(target=strikes)
    def refuse(self):
        return self.strike("redis.refuse")

    @rule(target=strikes, seconds=st.sampled_from([0.1, 0.5]))
    def slow(self, seconds):
        return self.strike("postgres.latency", seconds=seconds)

    @rule(struck=strikes)
    def heals(self, struck):
        self.heal(struck)

    @rule()
    @precondition(lambda self: self.can_end_episode)
    def quiet(self):
        self.end_episode()

    def check(self, history):
        assert not self.broken(self.program.build()), "the promise is broken"


def failure_of(condition, machine=Machine, **options):
    class Broken(machine):
        broken = staticmethod(condition)

    resilience = FakeResilience()
    with pytest.raises(AssertionError, match="the promise is broken") as caught:
        Broken.run(resilience, Shop(), **options)
    return "\n".join(caught.value.__notes__), resilience


def two_outages(program):
    return sum(any(s.fault == "redis.refuse" for s in e.steps) for e in program.schedule.episodes) >= 2


def test_the_failure_has_a_short_program_that_breaks_the_promise():
    notes, resilience = failure_of(two_outages, seed=3)
    text = notes.partition("program = ")[2].partition("\nfound after ")[0]
    program = eval(text, {**vars(schedule), **vars(programs)})
    assert two_outages(program)
    assert len(program.schedule.steps) == 2
    assert program.schedule in resilience.played
    assert re.search(
        r"^found after \d+ schedules?, \d+\.\d s; reproduced 10 of 10; shortened \d+ times?$", notes, re.MULTILINE
    )


def test_the_failure_shows_how_to_replay_it_and_its_history():
    notes, resilience = failure_of(two_outages, seed=3, recovery=2.0)
    line = "replay it: history = program.play(resilience, workload, recovery=2.0) in a test, then the assertions of Broken.check"
    assert notes.splitlines()[-2:] == [line, "history: shop.jsonl"]
    assert resilience.written is not None
    notes, _ = failure_of(two_outages, seed=3)
    assert "program.play(resilience, workload) in a test" in notes


def test_the_search_becomes_properties_of_the_test():
    _, resilience = failure_of(two_outages, seed=3)
    found = dict(resilience.properties)
    assert re.fullmatch(r"\d+ schedules?", found["resilience_found_after"])
    assert int(found["resilience_schedules"]) > int(found["resilience_found_after"].split()[0])
    assert (found["resilience_seed"], found["resilience_outcome"]) == ("3", "broken")


def test_steps_that_rules_draw_have_no_fault_that_the_backend_cannot_inject():
    class Drawing(ResilienceMachine):
        @rule(step=steps("postgres", faults=["kill"]))
        def struck(self, step):
            self.strike(step.fault)

    with pytest.raises(CannotInject, match="a managed Postgres can't be killed"):
        Drawing.run(FakeResilience(), Shop())


def test_a_bug_that_shows_nine_times_of_ten_is_found():
    plays = itertools.count(1)
    notes, _ = failure_of(lambda program: two_outages(program) and next(plays) % 10)
    assert "reproduced 9 of 10" in notes or "reproduced 10 of 10" in notes


def test_a_machine_without_a_failure_passes_and_plays_many_programs(plays_of_a_second):
    resilience = FakeResilience(plays_of_a_second)
    Machine.run(resilience, Shop(), profile="dev")
    assert resilience.examples == len(resilience.played) > 5
    assert len(set(resilience.played)) > 5


def test_one_seed_draws_the_same_programs(plays_of_a_second):
    played = []
    for seed in (4, 4, 5):
        resilience = FakeResilience(plays_of_a_second)
        Machine.run(resilience, Shop(), profile="dev", seed=seed)
        played.append(resilience.played)
    number = min(map(len, played))  # the budget is in seconds
    assert number > 5
    assert played[0][:number] == played[1][:number]
    assert played[0][:number] != played[2][:number]


def test_a_rule_that_fails_ends_the_test_and_nothing_is_played():
    class Wrong(ResilienceMachine):
        @rule()
        def misspelt(self):
            self.operate("read")
            self.strike("redis.refus")

    resilience = FakeResilience()
    with pytest.raises(ScheduleError, match="did you mean 'refuse'"):
        Wrong.run(resilience, Shop())
    assert not resilience.played


def test_a_strike_in_force_is_an_error_because_each_program_begins_clean():
    resilience = FakeResilience()
    resilience.strikes.append(SimpleNamespace(label="redis.pause", healed=False))
    with pytest.raises(SetupError, match=r"without redis\.pause; heal it first"):
        Machine.run(resilience, Shop())
    assert not resilience.examples


def test_a_program_takes_lists():
    program = Program(Schedule([Episode([], 1)]), [[Operate("read")]])
    assert program.operations == ((Operate("read"),),)


def test_a_wrong_operation_is_an_error_at_once():
    class Wrong(ResilienceMachine):
        @rule()
        def buy(self):
            self.operate("buy")

    with pytest.raises(SetupError, match="no operation 'buy'; it has: update, read"):
        Wrong.run(FakeResilience(), Shop())


def test_a_key_needs_the_method_execute():
    names = [name for name in vars(Shop) if name != "execute"]
    plain = type("Plain", (), {name: vars(Shop)[name] for name in names})
    with pytest.raises(SetupError, match=r"needs the method execute\(client, kind, key, value\) of Plain"):
        Machine.run(FakeResilience(), plain())


def test_a_check_that_takes_no_history_is_an_error_before_anything_is_played():
    class Forgetful(Machine):
        def check(self):
            pass

    resilience = FakeResilience()
    with pytest.raises(SetupError, match=r"Forgetful\.check takes the history: def check\(self, history\)"):
        Forgetful.run(resilience, Shop())
    assert not resilience.played


def test_a_machine_without_a_check_is_an_error():
    class Unchecked(ResilienceMachine):
        @rule()
        def read(self):
            self.operate("read")

    with pytest.raises(SetupError, match=r"Unchecked has no method check\(self, history\)"):
        Unchecked.run(FakeResilience(), Shop())


def test_a_machine_whose_rules_append_no_operation_is_an_error():
    class Idle(ResilienceMachine):
        @rule()
        def refuse(self):
            self.strike("redis.refuse")

        def check(self, history):
            raise AssertionError

    resilience = FakeResilience()
    with pytest.raises(SetupError, match=r"no rule of Idle has appended an operation.*self\.operate"):
        Idle.run(resilience, Shop())
    assert not resilience.played


def test_a_heal_takes_what_strike_has_returned():
    class Forgets(ResilienceMachine):
        struck = Bundle("struck")

        @rule(target=struck)
        def refuse(self):
            self.strike("redis.refuse")

        @rule(struck=struck)
        def back(self, struck):
            self.heal(struck)

    with pytest.raises(SetupError, match=r"heal\(\) takes what strike\(\) returns, got None; .* `return self\.strike"):
        Forgets.run(FakeResilience(), Shop())


def test_a_machine_is_run_by_its_class():
    for make in (Machine, Machine.TestCase("runTest").runTest):
        with pytest.raises(SetupError, match=r"Machine\.run\(resilience, workload\)"):
            make()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Shop, r"such as HttpResource.*; got the class Shop: create an instance of it"),
        (None, r"such as HttpResource.*; None has no kinds, no begin,"),
    ],
)
def test_a_wrong_workload_is_an_error_before_anything_is_played(wrong, message):
    program = Program(Schedule([Episode([], 1)]), ((Operate("read"),),))
    for run in (Machine.run, program.play):
        resilience = FakeResilience()
        with pytest.raises(SetupError, match=message):
            run(resilience, wrong)
        assert not resilience.played


@pytest.mark.parametrize("wrong", [Shop(), None, 7], ids=["the workload", "None", "a number"])
def test_a_wrong_first_argument_is_an_error_that_names_the_right_ones(wrong):
    program = Program(Schedule([Episode([], 1)]), ((Operate("read"),),))
    for run, name in (Machine.run, "Machine.run"), (program.play, "Program.play"):
        with pytest.raises(
            SetupError, match=rf"{name}\(resilience, workload\) takes the fixture `resilience` first; got"
        ):
            run(wrong, FakeResilience())


# Programs


@pytest.mark.parametrize("key", [object(), ["a"], b"a"], ids=["object", "list", "bytes"])
def test_a_key_that_names_no_object_is_an_error(key):
    class Keyed(ResilienceMachine):
        @rule()
        def write(self):
            self.operate("update", key=key)

    class KeyedShop(Shop):
        def execute(self, client, kind, key, value):
            self.perform(client, kind, 0)

    with pytest.raises(
        SetupError, match=r"operation 'update': a key is the text that names an object, such as \"7\", or None; got"
    ):
        Keyed.run(FakeResilience(), KeyedShop())
    with pytest.raises(SetupError, match="a key is the text"):
        Operate("update", key=key)


def test_a_program_with_an_operation_that_the_workload_does_not_have_is_an_error():
    program = Program(Schedule([Episode([], 1)]), ((Operate("buy"),),))
    with pytest.raises(SetupError, match="no operation 'buy'; it has: update, read"):
        program.play(FakeResilience(), Shop())


def test_strikes_and_heals_become_steps():
    builder = ProgramBuilder()
    first = builder.strike("redis.refuse", {}, None)
    builder.operate(Operate("read"))
    builder.strike("postgres.latency", {"seconds": 0.1}, touched(2))
    builder.operate(Operate("update", "a", 1))
    builder.heal(1, first)
    builder.operate(Operate("read"))
    builder.strike("redis.pause", {}, None)  # after the last operation
    builder.end_episode()
    builder.end_episode()  # has no operation yet
    builder.heal(1, first)  # of an episode that has ended
    builder.operate(Operate("read"))
    latency = Step("postgres.latency", {"seconds": 0.1}, at=operations(1), until=touched(2))
    assert builder.build() == Program(
        Schedule([Episode([Step("redis.refuse", until=operations(2)), latency], 3), Episode([], 1)]),
        ((Operate("read"), Operate("update", "a", 1), Operate("read")), (Operate("read"),)),
    )


def test_a_program_without_operations_is_none():
    builder = ProgramBuilder()
    builder.strike("redis.refuse", {}, None)
    assert builder.build() is None


def test_a_program_has_at_most_four_episodes():
    builder = ProgramBuilder()
    for _ in range(3):
        builder.operate(Operate("read"))
        builder.end_episode()
    builder.operate(Operate("read"))
    with pytest.raises(SetupError, match="at most 4 episodes"):
        builder.end_episode()


def test_a_program_survives_repr():
    program = Program(Schedule([Episode([], 2)]), ((Operate("read"), Operate("update", "a", 1)),))
    assert eval(repr(program)) == program
    assert hash(eval(repr(program))) == hash(program)


def test_a_program_with_other_counts_is_an_error():
    with pytest.raises(SetupError, match=r"have \[2\] operations"):
        Program(Schedule([Episode([], 2)]), ((Operate("read"),),))


def test_a_program_is_played_with_its_operations_and_the_workload_does_the_rest():
    workload = Shop()
    program = Program(
        Schedule([Episode([], 2), Episode([], 1)]), ((Operate("update", "a", 1), Operate("read")), (Operate("update"),))
    )
    program.play(FakeResilience(), workload)
    assert workload.performed == [("update", 0), ("update", "a", 1), ("read", 1), ("update", 0), ("update", 0)]


async def _perform(self, client, kind, n):
    self.performed.append((kind, n))


@pytest.mark.anyio
async def test_the_script_of_an_asynchronous_workload_is_asynchronous():
    class Async(Shop):
        perform = _perform

    workload = Async()
    await script_of(workload).perform(History().client(), "read", 3)
    assert workload.performed == [("read", 3)]


@pytest.fixture(autouse=True)
def _no_example_database():
    before = settings.get_current_profile_name()
    settings.register_profile("no-database", settings.get_profile(before), database=None)
    settings.load_profile("no-database")
    yield
    settings.load_profile(before)


@pytest.fixture
def plays_of_a_second(monkeypatch):
    """The clock of a search, for a system whose plays take a second each."""
    clock = FakeClock()
    monkeypatch.setattr(machine, "Search", functools.partial(Search, clock=clock))
    monkeypatch.setitem(PROFILES, "dev", PROFILES["dev"]._replace(search=20.0))
    return clock


@pytest.fixture(autouse=True)
def _every_fault_can_be_injected():
    yield
    set_unsupported({})


@pytest.fixture
def anyio_backend():
    return "asyncio"
