"""Receipts of network faults, as a function of the proxy's counters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import pytest

from pytest_resilience.faults import receipts
from pytest_resilience.proxy_client.counters import ConnectionCounts, ProxyCounters, Tally
from pytest_resilience.proxy_client.handle import ProxyHandle
from tests.support.clocks import FakeClock


def ours(*, cut: int = 0, refused: int | None = 0, unattributed: int = 0, **rest: Any) -> ProxyCounters:
    """Return the counters of our proxy."""
    tally = None if refused is None else Tally(refused, 0, 11.0 if refused else None, 12.0 if refused else None)
    closed = Tally(cut, 0, 10.5 if cut else None, 10.5 if cut else None)
    return ProxyCounters(10.0, 0, Tally(), tally, closed, unattributed, **rest)


def real(accepted: int | None = None, closed: int = 0, closed_bytes: int = 0) -> ProxyCounters:
    """Return the counters of a real Toxiproxy, or without arguments of one that shows nothing."""
    counts = ConnectionCounts(accepted, closed) if accepted is not None else None
    return ProxyCounters(10.0, None, Tally(), None, None, 0, None, counts, closed_bytes)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    clock = FakeClock()
    monkeypatch.setattr(receipts, "SYSTEM", clock)
    monkeypatch.setattr(receipts, "wait_for_notices", lambda: True)
    return clock


class Proxy:
    """A proxy with given readings. The last one repeats."""

    def __init__(self, readings: Iterable[ProxyCounters], *, enabled_at: float = float("-inf")) -> None:
        self.readings = list(readings)
        self.disabled_by = 0
        self.enabled_at = enabled_at
        self.reads = 0

    def counters(self) -> ProxyCounters:
        self.reads += 1
        return self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]

    def now(self) -> float:
        return receipts.SYSTEM.now()


def proxy(*readings: ProxyCounters, recently_enabled: bool = False) -> ProxyHandle:
    return cast("ProxyHandle", Proxy(readings, enabled_at=receipts.SYSTEM.now() if recently_enabled else float("-inf")))


@pytest.mark.parametrize(
    ("before", "after", "touched"),
    [
        pytest.param(ours(), ours(), 0, id="nothing came"),
        pytest.param(ours(), ours(refused=3), 3, id="refused"),
        pytest.param(ours(refused=2), ours(refused=3), 1, id="refused since"),
        pytest.param(ours(), ours(cut=2), 2, id="closed"),
        pytest.param(ours(), ours(cut=2, refused=3), 5, id="closed and refused"),
        pytest.param(ours(), ours(cut=2, refused=3, unattributed=1), 5, id="counted ones are enough"),
        pytest.param(ours(), ours(unattributed=1), None, id="perhaps refused here"),
        pytest.param(ours(unattributed=1), ours(unattributed=1), 0, id="perhaps refused here, but earlier"),
        pytest.param(ours(refused=None), ours(refused=None), None, id="the kernel reports nothing"),
        pytest.param(ours(refused=None), ours(refused=None, cut=1), 1, id="the kernel reports nothing, one closed"),
        pytest.param(ours(cut=4), ours(), None, id="another process counts"),
        pytest.param(real(), real(), None, id="a real Toxiproxy that shows nothing"),
        pytest.param(real(2, 1), real(2, 2), 1, id="a real Toxiproxy whose log shows a close"),
        pytest.param(real(2, 1), real(2, 1), None, id="a real Toxiproxy whose log shows none"),
        pytest.param(real(), real(closed_bytes=7), 1, id="a real Toxiproxy whose metrics show a close"),
    ],
)
def test_refused_and_closed_connections_are_counted(
    before: ProxyCounters, after: ProxyCounters, touched: int | None
) -> None:
    assert receipts.refused_between(before, after).touched == touched


def test_first_and_last_are_seconds_since_the_strike() -> None:
    receipt = receipts.refused_between(ours(), ours(cut=1, refused=2))
    assert (receipt.first, receipt.last) == (0.5, 2.0)


@pytest.mark.parametrize(
    ("before", "after", "unit", "touched"),
    [
        pytest.param(None, real(1, 0), "bytes", None, id="no reading before"),
        pytest.param(real(), real(), "bytes", None, id="nothing is shown"),
        pytest.param(real(2, 2), real(2, 2), "bytes", 0, id="no connection at all"),
        pytest.param(real(2, 1), real(2, 1), "bytes", None, id="a connection that was open"),
        pytest.param(real(2, 2), real(3, 2), "bytes", None, id="a connection that came"),
        pytest.param(real(2, 1), real(2, 2), "bytes", None, id="closed, but bytes are asked for"),
        pytest.param(real(2, 1), real(2, 2), "connections", 1, id="closed"),
        pytest.param(real(2, 1), real(2, 1), "connections", None, id="not closed"),
    ],
)
def test_a_toxic_that_does_not_count_is_judged_by_connections(
    before: ProxyCounters | None, after: ProxyCounters, unit: str, touched: int | None
) -> None:
    assert receipts.uncounted(before, after, unit).touched == touched


@pytest.mark.parametrize(("unit", "touched"), [("bytes", 12), ("connections", 2)])
def test_bytes_of_two_streams_add_up_and_their_connections_do_not(unit: str, touched: int) -> None:
    toxics = {"up": Tally(1, 5, 11.0, 11.0), "down": Tally(2, 7, 12.0, 13.0), "other": Tally(9, 99, 10.0, 99.0)}
    receipt = receipts.toxics(proxy(ours(toxics=toxics)), ["up", "down"], unit, 10.0, None)
    assert (receipt.touched, receipt.first, receipt.last) == (touched, 1.0, 3.0)


def test_a_toxic_that_is_gone_has_worked_on_nothing() -> None:
    assert receipts.toxics(proxy(ours()), ["gone"], "bytes", 10.0, None).touched == 0


def test_accepted_connections_are_counted() -> None:
    before = ours()
    after = ProxyCounters(12.0, 1, Tally(2, 0, 10.5, 11.5), Tally(), Tally())
    receipt = receipts.accepted(proxy(after), before)
    assert (receipt.touched, receipt.first, receipt.last) == (2, 0.5, 1.5)


def test_counters_are_read_until_two_readings_agree() -> None:
    handle = proxy(*[ours(refused=number) for number in (1, 2, 3, 3, 4)], recently_enabled=True)
    assert receipts.stable_counters(handle, ours()).refused == Tally(3, 0, 11.0, 12.0)


def test_counters_of_a_proxy_that_refuses_nothing_are_read_once() -> None:
    handle = Proxy([ours(refused=1), ours(refused=2)])
    assert receipts.stable_counters(cast("ProxyHandle", handle), ours()).refused == Tally(1, 0, 11.0, 12.0)
    assert handle.reads == 1


def test_a_refusal_that_is_reported_late_is_waited_for() -> None:
    handle = proxy(ours(), ours(), ours(), ours(refused=1), recently_enabled=True)
    assert receipts.refusals(handle, ours()).touched == 1


def test_a_count_of_0_is_given_when_no_late_report_can_come() -> None:
    assert receipts.refusals(proxy(ours(), recently_enabled=True), ours()).touched == 0


def late_proxy(monkeypatch: pytest.MonkeyPatch, *, waits: int) -> ProxyHandle:
    """Return a proxy whose only refusal the kernel reports during the last of some waits for its notices, each of a second."""
    waited: list[bool] = []
    handle = Proxy([ours()], enabled_at=receipts.SYSTEM.now())

    def wait() -> bool:
        receipts.SYSTEM.sleep(1)
        waited.append(True)
        if len(waited) == waits:
            handle.readings = [ours(refused=1)]
        return True

    monkeypatch.setattr(receipts, "wait_for_notices", wait)
    return cast("ProxyHandle", handle)


def test_a_refusal_that_the_kernel_reports_very_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert receipts.refusals(late_proxy(monkeypatch, waits=2), ours()).touched == 1


def test_a_strike_excludes_the_refusals_that_the_kernel_reports_late(monkeypatch: pytest.MonkeyPatch) -> None:
    before = receipts.reported_counters(late_proxy(monkeypatch, waits=1))
    assert receipts.refused_between(before, ours(refused=1)).touched == 0


@pytest.mark.parametrize(("refused", "touched"), [(0, None), (1, 1)])
def test_a_count_of_0_is_unknown_if_the_kernel_does_not_report(
    monkeypatch: pytest.MonkeyPatch, refused: int, touched: int | None
) -> None:
    monkeypatch.setattr(receipts, "wait_for_notices", lambda: False)
    handle = proxy(ours(refused=refused), recently_enabled=True)
    assert receipts.refusals(handle, ours()).touched == touched


def test_counters_at_the_end_of_the_strike_are_not_read_again() -> None:
    assert receipts.refusals(proxy(ours(refused=9)), ours(), ours(refused=1)).touched == 1


def test_a_close_that_is_logged_late_is_waited_for() -> None:
    before = real(1, 0)
    after = receipts.counters_after_close(proxy(real(2, 0), real(2, 0), real(2, 1)), before)
    assert receipts.closed_since(before, after) == 1


@pytest.mark.parametrize("reading", [real(2, 2), real(4, 3)], ids=["no connection is open", "one has closed already"])
def test_no_close_is_waited_for_when_none_can_come_or_one_has(reading: ProxyCounters) -> None:
    handle = Proxy([reading])
    assert receipts.counters_after_close(cast("ProxyHandle", handle), real(2, 2)) == reading
    assert handle.reads == 1


def test_the_wait_for_a_close_ends(clock: FakeClock) -> None:
    before, began = real(1, 0), clock.now()
    assert receipts.closed_since(before, receipts.counters_after_close(proxy(real(1, 0)), before)) == 0
    assert clock.now() - began == pytest.approx(receipts.CLOSE_LOGGED_WITHIN, abs=2 * receipts.POLL_INTERVAL)
