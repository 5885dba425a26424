"""An import of contacts takes bounded memory and no connection that others need, and an outage interrupts it without harm."""

from __future__ import annotations

import gzip
import itertools
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx
import pytest

import healthy
from instances import Instance, another_instance
from pytest_resilience import Resilience, Strike, eventually
from workload import (
    assert_full_capacity,
    assert_unavailable,
    eventually_or_fail,
    postgres_session,
    sessions_waiting_for_lock,
    sql,
    timed,
    wait_until_ready,
)

PATH = "/api/contacts/import"
CSV = {"Content-Type": "text/csv"}
HEADER = b"name,email,phone\n"
MIB = 2**20
MAX_GROWTH = 12.0  # MiB of RSS during the import of 10 MiB, whose rows as objects would take 60
MAX_BYTES = 10 * MIB  # of a file
MAX_ROWS = 100_000  # of a file
BODY_TIMEOUT = 0.1  # seconds for a part of a body
LONGEST_UPLOAD = 30 * BODY_TIMEOUT
STORED_NAME = "é" * 200  # the longest one
# Rows with the columns phone, email and name. The last row of an address counts.
VALID = (
    "+1 (212) 555-01.00/2,Ada@Example.COM,First\n"
    ",bob@example.com,B\n"
    f"0,cy@example.com,{STORED_NAME}\n"
    '7,dee@example.com,"Dee, ""D"" of the sea"\n'
    "1234,ada@example.com,Ada\n"
)
STORED = [
    ("Ada", "ada@example.com", "1234"),
    ("B", "bob@example.com", ""),
    (STORED_NAME, "cy@example.com", "0"),
    ('Dee, "D" of the sea', "dee@example.com", "7"),
]
INVALID: dict[str, tuple[str, str]] = {
    "no name": ("1,ada@example.com,", "name"),
    "a name of 201 characters": (f"1,ada@example.com,{'é' * 201}", "name"),
    "a name that begins with =": ("1,ada@example.com,=1+1", "name"),
    "a name that begins with +": ("1,ada@example.com,+1+1", "name"),
    "a name that begins with -": ("1,ada@example.com,-1+1", "name"),
    "a name that begins with @": ("1,ada@example.com,@SUM(A1)", "name"),
    "a quoted formula": ('1,ada@example.com,"=1,1"', "name"),
    "a control character in the name": ("1,ada@example.com,A\x07da", "name"),
    "a tab in the name": ("1,ada@example.com,A\tda", "name"),
    "a line break in the name": ('1,ada@example.com,"A\nda"', "name"),
    "an address without a domain": ("1,ada@,Ada", "email"),
    "no address": ("1,,Ada", "email"),
    "a phone number with letters": ("1-800-FLOWERS,ada@example.com,Ada", "phone"),
    "a formula as phone number": ("=1+1,ada@example.com,Ada", "phone"),
    "a formula as phone number that begins with +": ("+A1+A2,ada@example.com,Ada", "phone"),
    "a field too many": ("1,ada@example.com,Ada,x", "the line has"),
    "a field too few": ("1,ada@example.com", "the line has"),
    "a quote that is not closed": ('1,ada@example.com,"Ada', "a quote"),
    "text behind a quote": ('1,ada@example.com,"Ada"x', "a quote"),
}
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


def test_two_imports_of_the_same_addresses_at_one_time_both_succeed(resilience: Resilience) -> None:
    """Their rows are in opposite orders, and both begin to write before either can go on."""
    first, last, middle = (f"{name}@example.com".encode() for name in ("ada", "zoe", "may"))
    files = [
        HEADER + b"".join(b"%s,%s,\n" % (name, address) for address in addresses)
        for name, addresses in ((b"One", (first, middle, last)), (b"Two", (last, middle, first)))
    ]
    insert = f"insert into contacts (email) values ('{middle.decode()}')"
    with ThreadPoolExecutor(2) as threads:
        with postgres_session(resilience, "another application", "begin", insert):  # which is rolled back
            imports = [threads.submit(timed, lambda file=file: upload(resilience, file)) for file in files]
            eventually(lambda: sessions_waiting_for_lock(resilience) == 2, within=healthy.COMMAND_TIMEOUT / 2)
        replies = [each.result() for each in imports]
    statuses = [reply.status for reply in replies]
    assert statuses == [200, 200], f"two imports have the same addresses, in opposite orders, and get {statuses}"
    counts = sorted((reply.reply.json()["imported"], reply.reply.json()["updated"]) for reply in replies if reply.reply)
    assert counts == [(0, 3), (3, 0)], f"two imports of the same 3 addresses report {counts} imported and updated"
    found = stored(resilience)
    assert len({name for name, _, _ in found}) == 1, f"two imports of the same 3 addresses are mixed: {found}"
    assert [address.encode() for _, address, _ in found] == [first, middle, last], (
        f"two imports of the same 3 addresses leave {found}"
    )


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


def stored(resilience: Resilience) -> list[tuple[str, str, str]]:
    """Return all contacts by address."""
    return [tuple(row) for row in sql(resilience, "select name, email, phone from contacts order by email")]


def test_each_row_is_judged_alone_and_the_last_one_of_an_address_is_stored(resilience: Resilience) -> None:
    sql(resilience, "insert into contacts (name, email, phone) values ('Old', 'bob@example.com', '1')")
    header = "phone,email,name\n"
    body = upload(resilience, (header + VALID).encode()).json()
    assert body == {"imported": 3, "updated": 2, "rejected": 0, "errors": []}, (
        f"three addresses are new, one was known and one comes twice, and the import reports {body}"
    )
    found = stored(resilience)
    assert found == STORED, f"the columns are {header.strip()}, and these contacts are stored: {found}"
    for kind, (row, reason) in INVALID.items():
        content = f"{header},before@example.com,B\n{row}\n,after@example.com,A\n".encode()
        body = upload(resilience, content).json()
        assert body["rejected"] == 1, f"{kind}: {body['rejected']} rows are rejected, not one: {body}"
        assert body["imported"] + body["updated"] == 2, f"{kind}: the rows before and after it are not imported: {body}"
        (error,) = body["errors"]
        assert error["line"] == 3, f"{kind}: it is in line 3, and the response names line {error['line']}"
        assert error["reason"].startswith(reason), f"{kind}: the reason is {error['reason']!r}"
    others = [row for row in stored(resilience) if row not in STORED]
    assert [row[1] for row in others] == ["after@example.com", "before@example.com"], (
        f"an invalid row is stored: {others}"
    )
    body = upload(resilience, HEADER + b"x\n" * 12).json()
    lines = [error["line"] for error in body["errors"]]
    assert (body["rejected"], lines) == (12, [*range(2, 12)]), f"12 rows are rejected, and the response is {body}"


def test_a_quote_that_is_not_closed_within_4_kib_costs_one_line(resilience: Resilience) -> None:
    for size, expected in ((4000, (0, 1)), (4200, (100, 2))):  # the line of the closing quote opens a record, too
        inside = rows(100)
        record = b'"%s\n%s"\n' % (b"x" * (size - len(inside) - 4), inside)
        body = upload(resilience, HEADER + record).json()
        found = body["imported"], body["rejected"]
        assert found == expected, (
            f"a quote is closed after {size} bytes, and {found} rows are imported and rejected, not {expected}"
        )


def test_a_file_may_have_10_mib_and_100_000_rows_and_not_one_more(resilience: Resilience) -> None:
    line = b"x" * (MAX_BYTES - len(HEADER))
    files: tuple[tuple[str, bytes | Iterator[bytes], int], ...] = (
        ("10 MiB", HEADER + line, 200),
        ("10 MiB and a byte", HEADER + line + b"x", 413),
        ("10 MiB and a byte, in chunks", iter([HEADER, line, b"x"]), 413),
        ("100,000 rows", HEADER + b"\n".join([b"x"] * MAX_ROWS), 200),
        ("100,001 rows", HEADER + b"\n".join([b"x"] * (MAX_ROWS + 1)), 413),
    )
    for size, content, expected in files:
        try:
            code = upload(resilience, content).status_code
        except httpx.WriteError:
            code = 413  # the service closed the connection before it had the whole body
        assert code == expected, f"a file of {size} gets {code}, not {expected}"
    for content_type in ("application/json", "text/plain", "text/csv; charset=latin-1"):
        code = resilience.service.post(PATH, content=HEADER, headers={"Content-Type": content_type}).status_code
        assert code == 415, f"a file of the type {content_type} gets {code}, not 415"


def test_an_import_that_ends_early_has_imported_the_rows_before(resilience: Resilience) -> None:
    """A client that stops ends its import after BODY_TIMEOUT, and one that is slow after 30 times that."""
    full = HEADER + rows(3) + b"x\n" * MAX_ROWS
    code = upload(resilience, full).status_code
    assert code == 413, f"a file with too many rows gets {code}, not 413"
    assert contacts(resilience) == 3, "an import ended with 413, and has not imported the rows before"
    sql(resilience, "truncate contacts")
    with another_instance(resilience, BODY_TIMEOUT=str(BODY_TIMEOUT)) as instance:
        seconds, response = slow_upload(instance, HEADER + rows(3), iter(()))
        assert response.startswith(b"HTTP/1.1 408 "), f"an upload that stops gets {response[:80]!r}, not a 408"
        assert seconds < LONGEST_UPLOAD / 2, (
            f"an upload stops, and gets its 408 {seconds:.1f} s later, not {BODY_TIMEOUT:g}"
        )
        assert contacts(resilience) == 3, "an import ended with 408, and has not imported the rows before"
        for _ in range(3):  # a busy machine may delay a part, which ends the upload too
            seconds, response = slow_upload(instance, HEADER, itertools.repeat(b"x\n"))
            if seconds > LONGEST_UPLOAD / 2:
                break
    assert response.startswith(b"HTTP/1.1 408 "), (
        f"an upload without an end gets {response[:80]!r} after {seconds:.1f} s, not a 408 after {LONGEST_UPLOAD:g} s"
    )


def slow_upload(instance: Instance, content: bytes, more: Iterator[bytes]) -> tuple[float, bytes]:
    """Begin an upload, and send small pieces until there is a response. Return the seconds, and the response or nothing."""
    url = instance.client.base_url
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\nContent-Length: 1000000\r\n\r\n"
    with socket.create_connection((url.host, url.port or 80)) as client:
        begin = time.monotonic()
        client.sendall(head.encode() + content)
        client.settimeout(BODY_TIMEOUT / 5)
        while (seconds := time.monotonic() - begin) < 2 * LONGEST_UPLOAD:
            try:
                return seconds, client.recv(4096)
            except TimeoutError:
                client.sendall(next(more, b""))
    return seconds, b""


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
