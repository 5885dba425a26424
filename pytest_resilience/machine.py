"""State machines that write a program of operations and faults, which is played at the end.

    class Shop(ResilienceMachine):
        @rule(key=st.sampled_from(["a", "b"]))
        def write(self, key):
            self.operate("update", key=key)

        @rule()
        def redis_outage(self):
            self.strike("redis.refuse")

        def check(self, history):
            history.check(no_lost_writes())

    def test_shop(resilience, shop):
        Shop.run(resilience, shop)

Rules only append to the program, and preconditions look at the program only. Hypothesis therefore sees a deterministic test, whatever
the system does.
"""

from __future__ import annotations

import functools
import inspect
import sys
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from hypothesis import HealthCheck, Phase
from hypothesis import seed as seeded
from hypothesis import settings as hypothesis_settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from .drawn_kinds import set_unsupported
from .errors import SetupError
from .generated.candidate import Candidate
from .generated.failures import HISTORY, Ended, Falsified
from .generated.hypothesis_test import budgeted, judge, seed_of
from .generated.search import Finding, Search
from .generated.summary import found_after, properties, remarks
from .history import History
from .profiles import profile_named
from .program import Operate, Program, ProgramBuilder, Script, check_kind, check_resilience, script_of
from .report.failure import Found, explain
from .schedule import CANCEL, MAX_EPISODES, Trigger

if TYPE_CHECKING:
    from .resilience import Resilience
    from .workloads.workload import Workload

__all__ = ["Operate", "Program", "ResilienceMachine", "Struck"]

RECOVERY = 5.0  # seconds, as in `Resilience.play`


class Struck(NamedTuple):
    """A strike of a program, for `heal`. Rules return it to put it into a bundle.

    Args:
        episode: the number of its episode, from 1 on.
        number: its number in the episode.
    """

    episode: int
    number: int


class _Run(NamedTuple):
    """The objects that all machines of one run share."""

    resilience: Resilience
    script: Script
    search: Search
    recovery: float


class ResilienceMachine(RuleBasedStateMachine):
    """A state machine of Hypothesis whose rules append to a program. Subclasses have rules and `check`.

    Attributes:
        step_count: the largest number of rules of a program.
    """

    step_count: ClassVar[int] = 20

    def __init__(self, run: _Run | None = None) -> None:
        if run is None:  # `Shop().run(...)`, or the class `Shop.TestCase`, which is Hypothesis' way to run a machine
            raise SetupError(
                f"a test with the fixture `resilience` runs this machine: {type(self).__name__}.run(resilience, workload)"
            )
        super().__init__()
        self._run = run
        self._raised_before = sys.exc_info()[1]
        self.program = ProgramBuilder()

    def check(self, history: History) -> None:
        """Check the history of the program. Subclasses override this with assertions and `history.check(...)`."""
        raise SetupError(f"{type(self).__name__} has no method check(self, history)")

    def operate(self, kind: str, *, key: str | None = None, value: Any = None) -> None:
        """Append an operation.

        Args:
            kind: the kind of the operation, one of the workload's.
            key: the key, a text; None for the workload's choice. A key or a value needs a workload with the method
                `execute(client, kind, key, value)`.
            value: the value; None for the workload's choice.

        Raises:
            SetupError: the workload has no such kind, or no method `execute` that is needed, or the key names no object.
        """
        __tracebackhide__ = True
        workload = self._run.script.workload
        check_kind(workload, kind)
        if (key is not None or value is not None) and not hasattr(workload, "execute"):
            raise SetupError(
                f"operate({kind!r}) with a key or a value needs the method execute(client, kind, key, value) of "
                f"{type(workload).__name__}"
            )
        self.program.operate(Operate(kind, key, value))

    def strike(self, fault: str, *, until: Trigger | None = None, **settings: Any) -> Struck:
        """Append a strike before the next operation. Return it for `heal`.

        Args:
            fault: target and fault, such as "redis.refuse".
            until: the moment of its heal; None for `heal`, or the end of the episode.
            settings: the settings of the fault.

        Raises:
            ScheduleError: there is no such fault, it never heals, or a setting does not fit.
        """
        return Struck(self.program.episodes, self.program.strike(fault, settings, until))

    def heal(self, struck: Struck) -> None:
        """Append the heal of a strike. Without effect if the episode of the strike has ended.

        Raises:
            SetupError: this is no strike of `strike`.
        """
        if not isinstance(struck, Struck):
            raise SetupError(
                f"heal() takes what strike() returns, got {struck!r}; a rule puts it into a bundle by `return self.strike(...)`"
            )
        self.program.heal(*struck)

    def cancel(self) -> None:
        """Append the cancellation of an operation in flight. It has an effect with an asynchronous workload only."""
        self.program.strike(CANCEL, {}, None)

    def end_episode(self) -> None:
        """End the episode, so that everything heals and recovers before the next operation."""
        self.program.end_episode()

    @property
    def can_end_episode(self) -> bool:
        """True if another episode can follow, for a precondition."""
        return bool(self.program.operations) and self.program.episodes < MAX_EPISODES

    def teardown(self) -> None:
        """Play the program, and check its history. Called by Hypothesis when all rules have run."""
        __tracebackhide__ = True
        if sys.exc_info()[1] is not self._raised_before:
            return  # Hypothesis has given up these draws, or a rule has failed
        program = self.program.build()
        if program is None:
            return
        play = functools.partial(self._play, program)
        candidate = Candidate(repr(program), {"program": program}, play)
        judge(self._run.search, candidate)

    def _play(self, program: Program) -> None:
        run = self._run
        run.resilience.begin_example()
        try:
            run.script.program = program
            self.check(run.resilience.play(program.schedule, run.script, recovery=run.recovery))
        except BaseException as error:
            setattr(error, HISTORY, run.resilience.history)
            raise
        finally:
            run.resilience.end_example()

    @classmethod
    def run(
        cls,
        resilience: Resilience,
        workload: Workload,
        *,
        profile: str | None = None,
        seed: int | None = None,
        recovery: float = RECOVERY,
    ) -> None:
        """Search for a program that breaks `check`, shorten it, and raise its failure.

        Args:
            resilience: the fixture.
            workload: the operations of the clients.
            profile: the budgets: "dev", "ci" or "soak"; None for that of the run.
            seed: the seed; None for that of the run.
            recovery: seconds for the system to return to its baseline after each episode.

        Raises:
            SetupError: a strike of the test is in force, an argument is invalid, or no rule has appended an operation.
            Exception: the failure of the shortest program, with the program as Python in its notes. `Program.play` replays it.
        """
        __tracebackhide__ = True
        check_resilience(f"{cls.__name__}.run", resilience)
        try:
            inspect.signature(cls.check).bind(None, None)
        except TypeError:
            raise SetupError(f"{cls.__name__}.check takes the history: def check(self, history)") from None
        _check_strikes(cls.__name__, resilience)
        chosen_profile = profile_named(profile or resilience.profile)
        resilience.default_clients = chosen_profile.clients
        set_unsupported(resilience.unsupported)  # rules may draw steps
        search = Search(chosen_profile)
        run = _Run(resilience, script_of(workload), search, recovery)
        chosen = seed if seed is not None else resilience.seed
        finding = None
        try:
            _search(cls, run, seed_of(f"{cls.__module__}.{cls.__qualname__}", chosen))
            finding = search.finding or max(search.suspects, key=lambda each: each.reproduced, default=None)
        finally:
            resilience.properties += properties(search, finding, tally=resilience.tally, seed=chosen)
        if finding is not None:
            _explain(cls, run, finding)
            raise finding.error
        if not search.examples:
            raise SetupError(
                f"no rule of {cls.__name__} has appended an operation, so nothing was played; call self.operate(...) in a rule"
            )


def _check_strikes(machine: str, resilience: Resilience) -> None:
    for strike in resilience.strikes:
        if not strike.healed:
            raise SetupError(
                f"{machine}.run begins each program from a clean state, without {strike.label}; heal it first, or strike it in a rule"
            )


def _search(machine: type[ResilienceMachine], run: _Run, first_seed: int) -> None:
    """Run Hypothesis until something is found or the budget is spent."""
    search = run.search
    given = hypothesis_settings(stateful_step_count=machine.step_count, suppress_health_check=list(HealthCheck))
    number = 0
    while search.finding is None and not search.is_over:
        suspects = len(search.suspects)
        search.begin_round()
        factory: Any = functools.wraps(machine, updated=())(lambda: machine(run))
        seeded(first_seed + number)(factory)
        ended = None
        try:
            run_state_machine_as_test(
                factory, settings=budgeted(given, [Phase.reuse, Phase.generate, Phase.shrink], search)
            )
        except Falsified:
            pass  # the search has the finding
        except Ended as error:
            ended = error.error
        if ended is not None:
            raise ended
        if len(search.suspects) == suspects:
            break
        number += 1


def _explain(machine: type[ResilienceMachine], run: _Run, finding: Finding) -> None:
    error = finding.error
    history = getattr(error, HISTORY, None)
    file = run.resilience.write_history(history) if history is not None else None
    recovery = f", recovery={run.recovery!r}" if run.recovery != RECOVERY else ""
    replay = f"history = program.play(resilience, workload{recovery}) in a test, then the assertions of {machine.__name__}.check"
    facts = tuple(remarks(run.search, finding))
    found = Found(finding.candidate.arguments, str(finding), facts, replay, found_after(finding))
    explain(error, history, found, file=file)
