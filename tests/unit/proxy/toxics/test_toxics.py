"""Each toxic as a table of inputs and outputs with their times."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from pytest_resilience.proxy.toxics import build
from pytest_resilience.proxy.toxics.toxic import BACK, CLOSE, END, NEVER, RESET, SAME, Toxic

T = 100.0  # "now", all over


class Context:
    """A toxic's place on a link, with the sizes that it touched."""

    def __init__(self, toxic: Toxic) -> None:
        self.state = toxic.new_state()
        self.random = Random(1)
        self.touched: list[int] = []

    def touch(self, now: float, size: int) -> None:
        self.touched.append(size)


def data(toxic: Toxic, chunk: bytes, *, arrived: float = T, now: float = T, context: Context | None = None) -> Any:
    return list(toxic.on_data(chunk, arrived, now, context or Context(toxic)))


@pytest.mark.parametrize(
    ("kind", "settings", "arrived", "now", "dues"),
    [
        ("noop", {}, T, T, [(T, b"abcdef")]),
        ("latency", {"delay": 2.0}, T, T, [(T + 2, b"abcdef")]),
        ("latency", {"delay": 2.0}, T, T + 5, [(T + 2, b"abcdef")]),  # from its arrival, however long it had to wait
        ("latency", {}, T, T, [(T, b"abcdef")]),
        ("bandwidth", {"rate_bytes_per_s": 60.0}, T, T, [(T + 0.1, b"abcdef")]),
        ("bandwidth", {"rate_bytes_per_s": 20.0}, T, T, [(T + 0.1, b"ab"), (T + 0.2, b"cd"), (T + 0.3, b"ef")]),
        ("bandwidth", {"rate_bytes_per_s": 20.0}, T, T + 9, [(T + 9.1, b"ab"), (T + 9.2, b"cd"), (T + 9.3, b"ef")]),
        ("bandwidth", {"rate_bytes_per_s": 3.0}, T, T, [(T + n / 3, bytes([96 + n])) for n in range(1, 7)]),
        ("bandwidth", {}, T, T, [(NEVER, b"abcdef")]),
        ("slow_close", {"delay": 3.0}, T, T, [(T, b"abcdef")]),
        ("timeout", {"timeout": 3.0}, T, T, []),
        ("reset_peer", {"timeout": 3.0}, T, T, [(NEVER, b"abcdef")]),
        ("slicer", {"average_size": 6}, T, T, [(T, b"abcdef")]),
        ("slicer", {"average_size": 3}, T, T, [(T, b"abc"), (T, b"def")]),
        ("slicer", {"average_size": 2}, T, T, [(T, b"a"), (T, b"bc"), (T, b"d"), (T, b"ef")]),
        ("slicer", {"average_size": 3, "delay": 1.0}, T, T, [(T, b"abc"), (T + 1, b"def"), (T + 2, b"")]),
        ("limit_data", {"limit_bytes": 7}, T, T, [(T, b"abcdef")]),
        ("limit_data", {"limit_bytes": 6}, T, T, [(T, b"abcdef"), (T, CLOSE)]),
        ("limit_data", {"limit_bytes": 2}, T, T, [(T, b"ab"), (T, CLOSE)]),
        ("limit_data", {}, T, T, [(T, CLOSE)]),
        ("limit_time", {"seconds": 1.0}, T, T, [(T, b"abcdef")]),
        ("cut", {}, T, T, [(T, b"abcdef")]),
        ("corrupt", {"every_bytes": 10_000}, T, T, [(T, b"abcdef")]),
    ],
)
def test_data(kind: str, settings: dict[str, Any], arrived: float, now: float, dues: list[Any]) -> None:
    got = data(build(kind, settings), b"abcdef", arrived=arrived, now=now)
    assert [(what, direction) for _, what, direction in got] == [(what, SAME) for _, what in dues]
    assert [at for at, _, _ in got] == pytest.approx([at for at, _ in dues])


@pytest.mark.parametrize(
    ("kind", "settings", "due"),
    [
        ("noop", {}, None),
        ("latency", {"delay": 1.0}, None),
        ("timeout", {"timeout": 3.0}, (T + 3, CLOSE)),
        ("timeout", {}, None),
        ("reset_peer", {"timeout": 3.0}, (T + 3, RESET)),
        ("reset_peer", {}, (T, RESET)),
        ("limit_time", {"seconds": 2.0}, (T + 2, CLOSE)),
        ("cut", {}, (T, END)),
    ],
)
def test_start(kind: str, settings: dict[str, Any], due: Any) -> None:
    toxic = build(kind, settings)
    assert toxic.on_start(T, Context(toxic)) == due


@pytest.mark.parametrize(
    ("kind", "settings", "dues"),
    [
        ("noop", {}, [(T, END)]),
        ("latency", {"delay": 9.0}, [(T, END)]),  # it follows the last chunk and gets no delay
        ("bandwidth", {}, [(T, END)]),
        ("slow_close", {"delay": 3.0}, [(T + 3, END)]),
        ("timeout", {}, []),
        ("limit_data", {}, [(T, END)]),
    ],
)
def test_end(kind: str, settings: dict[str, Any], dues: Any) -> None:
    toxic = build(kind, settings)
    assert list(toxic.on_end(END, T, T, Context(toxic))) == [(*due, SAME) for due in dues]


@pytest.mark.parametrize(
    ("kind", "settings", "all_touched", "touched"),
    [
        ("noop", {}, False, []),
        ("latency", {}, False, []),
        ("latency", {"delay": 1.0}, True, []),
        ("latency", {"jitter": 1.0}, True, []),
        ("bandwidth", {"rate_bytes_per_s": 1.0}, True, []),
        ("timeout", {}, True, []),
        ("reset_peer", {}, True, []),
        ("slicer", {"average_size": 6}, False, []),
        ("slicer", {"average_size": 5}, False, [6]),
        ("slicer", {"average_size": 6, "delay": 1.0}, False, [6]),
        ("limit_data", {"limit_bytes": 7}, False, []),
        ("limit_data", {"limit_bytes": 4}, False, [2]),
    ],
)
def test_touches_affected_bytes_only(
    kind: str, settings: dict[str, Any], all_touched: bool, touched: list[int]
) -> None:
    toxic = build(kind, settings)
    context = Context(toxic)
    data(toxic, b"abcdef", context=context)
    assert (toxic.touches_all, context.touched) == (all_touched, touched)


def test_only_a_timeout_closes_when_it_goes() -> None:
    from pytest_resilience.proxy.toxics import KINDS

    assert [kind for kind, toxic in KINDS.items() if toxic.closes_on_removal] == ["timeout"]


@pytest.mark.parametrize(
    ("distribution", "low", "high", "mean"),
    [("uniform", 0.5, 1.5, 1.0), ("normal", 0.0, 4.0, 1.0), ("pareto", 1.0, 50.0, 1.25)],
)
def test_jitter(distribution: str, low: float, high: float, mean: float) -> None:
    toxic = build("latency", {"delay": 1.0, "jitter": 0.5, "distribution": distribution})
    context = Context(toxic)
    delays = [data(toxic, b"x", context=context)[0][0] - T for _ in range(2000)]
    assert low <= min(delays)
    assert max(delays) <= high
    assert sum(delays) / len(delays) == pytest.approx(mean, abs=0.05)


def test_jitter_never_releases_before_the_arrival() -> None:
    toxic = build("latency", {"delay": 0.0, "jitter": 1.0})
    context = Context(toxic)
    delays = [data(toxic, b"x", context=context)[0][0] - T for _ in range(200)]
    assert min(delays) == 0.0


@pytest.mark.parametrize("variation", [0, 1, 7, 10])
def test_slices_are_small_and_make_up_the_chunk(variation: int) -> None:
    toxic, chunk = build("slicer", {"average_size": 10, "size_variation": variation}), bytes(range(256)) * 8
    pieces = [piece for _, piece, _ in data(toxic, chunk)]
    assert b"".join(pieces) == chunk
    assert all(0 < len(piece) <= 10 + variation for piece in pieces)


def test_limit_counts_over_chunks() -> None:
    toxic = build("limit_data", {"limit_bytes": 8})
    context = Context(toxic)
    assert data(toxic, b"12345", context=context) == [(T, b"12345", SAME)]
    assert data(toxic, b"67890", context=context) == [(T, b"678", SAME), (T, CLOSE, SAME)]


def test_shared_bandwidth_serves_one_after_the_other() -> None:
    toxic = build("shared_bandwidth", {"rate_bytes_per_s": 100.0})
    assert data(toxic, b"12345", context=Context(toxic)) == [(T + 0.05, b"12345", SAME)]
    assert data(toxic, b"67890", context=Context(toxic)) == [(T + 0.1, b"67890", SAME)]
    assert data(toxic, b"later", now=T + 9, context=Context(toxic)) == [(T + 9.05, b"later", SAME)]


def test_shared_bandwidth_zero_holds() -> None:
    assert data(build("shared_bandwidth", {}), b"x") == [(NEVER, b"x", SAME)]


def test_malformed_answers_the_first_request_only_and_passes_all() -> None:
    toxic = build("malformed", {})
    context = Context(toxic)
    first = list(toxic.on_data(b"abc", T, T, context))
    assert [(what, direction) for _, what, direction in first] == [(b"E\xff\xff\xff\xff", BACK), (b"abc", SAME)]
    assert list(toxic.on_data(b"def", T, T, context)) == [(T, b"def", SAME)]
    assert context.touched == [0]


def test_corrupt_flips_one_bit_at_the_mean_distance_and_counts_it() -> None:
    toxic = build("corrupt", {"every_bytes": 100})
    context = Context(toxic)
    got = b"".join(data(toxic, bytes(1000), context=context)[0][1] for _ in range(10))
    flipped = [byte for byte in got if byte]
    assert len(got) == 10_000
    assert 70 <= len(flipped) <= 140
    assert len(flipped) == sum(context.touched)
    assert all(byte.bit_count() == 1 for byte in flipped)


def test_signals_show_their_names() -> None:
    assert [repr(each) for each in (END, CLOSE, RESET)] == ["END", "CLOSE", "RESET"]
