"""Probes repeat a question until it is true, and their errors show the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from pytest_resilience import NeverHappened, SetupError, eventually, recovers
from pytest_resilience.history import FaultPeriod, History, recording
from tests.support.clocks import FakeClock


def history_of(faults: list[FaultPeriod]) -> History:
    history = History(start=0.0)
    for label, struck_at, healed_at in faults:
        strike = history.add_strike(label, struck_at)
        if healed_at is not None:
            history.add_heal(strike, healed_at)
    return history


def answers(*values: object) -> Callable[[], object]:
    """Return a question that returns or raises each value in turn, and then the last one again."""
    left: Iterator[object] = iter(values)
    last = values[-1]

    def question() -> object:
        value = next(left, last)
        if isinstance(value, Exception):
            raise value
        return value

    return question


def test_the_first_true_answer_is_returned() -> None:
    assert eventually(answers(None, 0, "", "yes", "later"), within=1, clock=FakeClock()) == "yes"


def test_a_question_that_returns_nothing_is_explained() -> None:
    with pytest.raises(
        NeverHappened, match="last answer: None\n  None is not a true answer: a question returns its answer"
    ):
        eventually(answers(None), within=1, clock=FakeClock())
    with pytest.raises(NeverHappened) as raised:
        eventually(answers(0), within=1, clock=FakeClock())
    assert "None" not in str(raised.value)


def test_an_exception_counts_as_not_yet() -> None:
    assert eventually(answers(ConnectionError("refused"), AssertionError(), 3), within=1, clock=FakeClock()) == 3


def test_the_question_is_called_once_even_when_the_deadline_is_short() -> None:
    assert eventually(answers("yes"), within=1e-9, clock=FakeClock()) == "yes"


def test_a_probe_stops_at_the_deadline() -> None:
    clock = FakeClock()
    with pytest.raises(NeverHappened):
        eventually(lambda: False, within=2.0, every=0.5, clock=clock)
    assert clock.time == pytest.approx(102.0)


def test_a_failure_shows_the_last_answer_the_number_of_calls_and_the_active_strikes() -> None:
    def service_is_back() -> str:
        return ""

    history = history_of(
        [FaultPeriod("redis.refuse", struck_at=101.0, healed_at=101.5), FaultPeriod("postgres.kill", 90.0, 95.0)]
    )
    with recording(history), pytest.raises(NeverHappened) as failure:
        eventually(service_is_back, within=2.0, every=0.5, clock=FakeClock())
    text = str(failure.value)
    assert "service_is_back() was not true within 2 s" in text
    assert "asked 5 times in 2.00 s" in text
    assert "last answer: ''" in text
    assert "redis.refuse (at 1.00 s, healed at 1.50 s)" in text
    assert "healed 5.0 s before: postgres.kill" in text


@pytest.mark.parametrize(
    ("faults", "line"),
    [
        ([], "no fault has struck in this test"),
        ([FaultPeriod("redis.refuse", 99.0, 99.8)], "healed 0.2 s before: redis.refuse"),
        (
            [FaultPeriod("a", 90.0, 95.0), FaultPeriod("b", 99.0, 99.6), FaultPeriod("c", 99.0, 99.8)],
            "healed 0.2 s before: b, c",
        ),
    ],
)
def test_a_failure_names_the_faults_that_healed_before_the_probe_or_that_there_were_none(
    faults: list[FaultPeriod], line: str
) -> None:
    with recording(history_of(faults)), pytest.raises(NeverHappened) as failure:
        eventually(lambda: False, within=2.0, every=0.5, clock=FakeClock())
    assert str(failure.value).splitlines()[-1] == f"  {line}"


def test_a_failure_is_an_assertion_error_caused_by_the_last_exception() -> None:
    with pytest.raises(AssertionError, match="raised ConnectionError: refused") as failure:
        eventually(answers(ConnectionError("refused")), within=1, clock=FakeClock())
    assert isinstance(failure.value.__cause__, ConnectionError)


def test_a_lambda_is_shown_by_its_source() -> None:
    with pytest.raises(NeverHappened, match="lambda: 1 > 2"):
        eventually(lambda: 1 > 2, within=0.1, clock=FakeClock())


def test_a_long_answer_is_cut() -> None:
    with pytest.raises(NeverHappened) as failure:
        eventually(answers(ValueError("x" * 10_000)), within=1, clock=FakeClock())
    assert len(str(failure.value)) < 1500


def test_recovery_takes_three_true_answers_in_a_row() -> None:
    calls: list[int] = []
    next_answer = answers(True, False, True, True, False, True, True, "third")

    def question() -> object:
        calls.append(1)
        return next_answer()

    assert recovers(question, within=1, clock=FakeClock()) == "third"
    assert len(calls) == 8


def test_a_service_with_intermittent_answers_has_not_recovered() -> None:
    flapping = answers(*[True, True, False] * 100)
    with pytest.raises(NeverHappened, match="at best 2 true answers in a row; 3 are needed"):
        recovers(flapping, within=1, every=0.02, clock=FakeClock())


def test_a_coroutine_function_gives_an_awaitable() -> None:
    turn = answers(False, False, "yes")

    async def question() -> object:
        return turn()

    async def test() -> object:
        return await eventually(question, within=5, every=0.001)

    assert asyncio.run(test()) == "yes"


def test_a_lambda_that_returns_a_coroutine_is_awaited_while_a_loop_runs() -> None:
    turn = answers(False, ConnectionError("refused"), "yes")

    async def question() -> object:
        return turn()

    async def test() -> object:
        return await eventually(lambda: asyncio.shield(question()), within=5, every=0.001)

    assert asyncio.run(test()) == "yes"


@pytest.mark.parametrize("answer", [False, True, ConnectionError("refused")])
@pytest.mark.parametrize("probe", [eventually, recovers])
def test_a_question_that_would_block_the_running_loop_is_an_error_at_once(
    probe: Callable[..., object], answer: object
) -> None:
    calls: list[object] = []
    turn = answers(answer)

    def is_done() -> object:
        calls.append(1)
        return turn()

    async def test() -> None:
        with pytest.raises(SetupError, match=r"is_done\(\) is not async") as error:
            probe(is_done, within=60)
        assert f"await {probe.__name__}(question, within=60)" in str(error.value)

    asyncio.run(asyncio.wait_for(test(), 5))
    assert len(calls) == 1


def test_a_thread_beside_an_event_loop_may_use_plain_callables() -> None:
    async def test() -> object:
        return await asyncio.to_thread(lambda: eventually(answers(False, "yes"), within=5, every=0.001))

    assert asyncio.run(test()) == "yes"


def test_an_async_question_that_hangs_does_not_outlast_the_probe() -> None:
    async def hang() -> bool:
        await asyncio.Event().wait()
        return True

    async def test() -> None:
        with pytest.raises(NeverHappened, match="no answer arrived before the deadline"):
            await eventually(hang, within=0.05)

    asyncio.run(asyncio.wait_for(test(), 5))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: eventually(True, within=1), "takes a callable"),  # type: ignore[call-overload]
        (lambda: eventually(lambda: True, within=0), "seconds above 0"),
        (lambda: eventually(lambda: True, within=1, every=-1), "seconds above 0"),
        (lambda: eventually(lambda: True, within="5"), "seconds above 0, got '5' and 0.02"),  # type: ignore[call-overload]
        (lambda: eventually(lambda: True, within=None), "seconds above 0, got None and 0.02"),  # type: ignore[call-overload]
        (lambda: eventually(lambda: asyncio.sleep(0), within=1), "pass a coroutine function"),
    ],
)
def test_an_invalid_question_is_an_error_at_once(wrong: Callable[[], object], message: str) -> None:
    with pytest.raises(SetupError, match=message):
        wrong()
