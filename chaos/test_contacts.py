"""An import of contacts takes bounded memory and no connection that others need, and an outage interrupts it without harm."""

from __future__ import annotations

import gzip
import random
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx
import pytest

import healthy
from pytest_resilience import Resilience, Strike, eventually
from workload import (
    assert_full_capacity,
    assert_unavailable,
    eventually_or_fail,
    sql,
    timed,
    wait_until_ready,
)

PATH = "/api/contacts/import"
CSV = {"Content-Type": "text/csv"}
HEADER = b"name,email,phone\n"
MIB = 2**20
MAX_GROWTH = 12.0  # MiB of RSS during the import of 10 MiB, whose rows as objects would take 60
MAX_STALL = 0.3  # seconds of computation; parsing 10 MiB in one step takes 1
MAX_DELAY = 2.0  # seconds, also on a machine whose other processes take the CPU from the service

FAULTS: dict[str, Callable[[Resilience], Strike]] = {
    "refusing": lambda r: r.postgres.refuse(),
    "paused": lambda r: r.postgres.pause(),
}
MALFORMED: dict[str, bytes] = {
    "Latin-1": HEADER + "Jürgen,j@example.com,\n".encode("latin-1"),
    "UTF-16": (HEADER.decode() + "Ada,ada@example.com,\n").encode("utf-16"),
    "NULs": HEADER + b"A\0da,ada@example.com,\nBob,bob\0@example.com,\nCy,cy@example.com,\0\n",
    "half a surrogate pair": HEADER + b"A\xed\xa0\x80,ada@example.com,\n",
    "gzip": gzip.compress(HEADER * 100),
    "random bytes": HEADER + random.Random(12).randbytes(100_000),
    "text behind a quote": HEADER + b'"Ada"x,ada@example.com,\n',
    "an endless line": HEADER + b"x" * MIB,
    "an endless quote": HEADER + b'"' + b"x\n" * 10_000,
    "only quotes": HEADER + b'"' * MIB,
    "only commas": HEADER + b"," * MIB,
    "carriage returns": HEADER.replace(b"\n", b"\r") * 100,
    "nothing": b"",
}


def rows(count: int, *, filler: int = 0) -> bytes:
    """Return rows with addresses that differ.

    Args:
        count: of rows.
        filler: characters that each name has more.
    """
    return b"".join(b"Ada %s,user%d@example.com,+1 212 555 0100\n" % (b"x" * filler, n) for n in range(count))


def upload(resilience: Resilience, content: bytes | Iterator[bytes]) -> httpx.Response:
    return resilience.service.post(PATH, content=content, headers=CSV, timeout=30.0)


def contacts(resilience: Resilience) -> int:
    """Return the number of contacts in Postgres."""
    count: int = sql(resilience, "select count(*) from contacts")[0][0]
    return count


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_an_outage_during_an_import_is_a_timely_503_and_the_repeated_import_completes_it(
    resilience: Resilience, fault: Callable[[Resilience], Strike]
) -> None:
    half = 2_000
    content = rows(2 * half)
    middle = content.index(b"user%d@" % half)
    strikes: list[Strike] = []

    def file() -> Iterator[bytes]:
        yield HEADER + content[:middle]
        eventually(lambda: contacts(resilience) >= half / 2, within=5.0)
        strikes.append(fault(resilience))
        yield content[middle:]

    reply = timed(lambda: upload(resilience, file()))
    assert_unavailable([reply])
    bound = 5.0 + healthy.ACQUIRE_TIMEOUT + healthy.COMMAND_TIMEOUT + healthy.SLACK
    assert reply.seconds < bound, f"the import failed after {reply.seconds:.1f} s, not within {bound:.1f} s"
    strikes[0].heal()
    wait_until_ready(resilience.service)
    imported = contacts(resilience)
    body = upload(resilience, HEADER + content).json()
    assert body == {"imported": 2 * half - imported, "updated": imported, "rejected": 0, "errors": []}, (
        f"{imported} of {2 * half} rows were imported before the outage, and the repetition reports {body}"
    )
    assert contacts(resilience) == 2 * half, "the repeated import is complete, and contacts are missing or doubled"
    assert_full_capacity(resilience)


@contextmanager
def sampled_rss(resilience: Resilience) -> Iterator[list[float]]:
    """Sample the RSS of the service in MiB for the duration of the block."""
    process, stop = resilience.service.process, threading.Event()
    samples = [process.memory_info().rss / MIB]

    def sample() -> None:
        while not stop.wait(0.01):
            samples.append(process.memory_info().rss / MIB)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()


@contextmanager
def measured_delays(resilience: Resilience) -> Iterator[list[tuple[float, float]]]:
    """Read /livez for the duration of the block. Yield the time of each request, and the CPU time of the service meanwhile, in seconds.

    On a busy machine the service waits for the CPU, too. It uses little CPU time then.
    """
    process, stop = resilience.service.process, threading.Event()
    delays = []

    def read() -> None:
        while not stop.wait(0.005):
            before = process.cpu_times()
            seconds = timed(lambda: resilience.service.get("/livez")).seconds
            after = process.cpu_times()
            delays.append((seconds, after.user + after.system - before.user - before.system))

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        try:
            yield delays
        finally:
            stop.set()
        reader.result()


@pytest.mark.parametrize("form", ["valid rows", "an endless line", "an endless quote"])
def test_an_import_of_10_mib_takes_bounded_memory_and_delays_no_other_request(
    resilience: Resilience, form: str
) -> None:
    bodies = {
        "valid rows": rows(10 * MIB // 200, filler=150),
        "an endless line": b"x" * (10 * MIB - 1000),
        "an endless quote": b'"' + b"x" * (10 * MIB - 1000),
    }
    content = HEADER + bodies[form]
    assert len(content) < 10 * MIB
    upload(resilience, HEADER + rows(600))  # the first import loads code
    with sampled_rss(resilience) as rss, measured_delays(resilience) as delays:
        reply = upload(resilience, content)
    assert reply.status_code == 200, reply.text
    growth, slowest = max(rss) - rss[0], max(seconds for seconds, _ in delays)
    stall = max(min(seconds, cpu) for seconds, cpu in delays)
    problems = [f"made the service {growth:.1f} MiB larger"] if growth > MAX_GROWTH else []
    problems += [f"delayed all requests for {slowest:.2f} s"] if stall > MAX_STALL or slowest > MAX_DELAY else []
    assert not problems, f"an import of 10 MiB ({form}) {' and '.join(problems)}"


def test_a_malformed_file_is_counted_or_refused_and_never_a_500(resilience: Resilience) -> None:
    for form, content in MALFORMED.items():
        reply = upload(resilience, content)
        assert reply.status_code in (200, 413, 422), f"{form}: {reply.status_code} {reply.text}"
        if reply.status_code == 200:
            body = reply.json()
            assert body["rejected"] > 0, f"{form}: no row is rejected: {body}"
            assert len(body["errors"]) == min(10, body["rejected"]), f"{form}: the reasons are not there: {body}"
    assert contacts(resilience) == 0, "a row of a malformed file was imported"


def test_stalled_uploads_hold_no_connection_of_the_pool(resilience: Resilience) -> None:
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\nContent-Length: 1000000\r\n\r\n".encode()
    )
    address = ("127.0.0.1", int(resilience.service.url.rpartition(":")[2]))
    with ExitStack() as stack:
        for _ in range(healthy.POOL_MAX):
            client = stack.enter_context(socket.create_connection(address))
            client.sendall(head + HEADER + rows(600))  # more than one batch, so the first one is written
        eventually_or_fail(
            lambda: contacts(resilience) >= 500, within=5.0, message="no upload has written its first batch of rows"
        )
        assert_full_capacity(resilience)
