"""Memory runs short: the guard notices within 2 s, says so in the log, collects, and memory comes down. Every number is true."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psutil
import pytest

import healthy
from instances import another_instance
from pytest_resilience import CannotInject, Resilience, eventually, recovers
from workload import NAME, concurrently, eventually_or_fail, reading, sql, timed

FORCED_GC = re.compile(r"\[Memory\] High heap usage: (\d+\.\d\d)%, forcing GC")
FREED = re.compile(r"\[GC\] Freed (-?\d+\.\d\d)MB heap, (-?\d+\.\d\d)MB external, (-?\d+\.\d\d)MB total")
STATS = re.compile(
    r"\[Memory Stats\] RSS: (?P<rss>\d+\.\d\d)MB \| Heap: (?P<used>\d+\.\d\d)/(?P<total>\d+\.\d\d)MB \((?P<share>\d+\.\d\d)%\)"
    r" \| External: (?P<external>\d+\.\d\d)MB( \| Limit: (?P<of>\d+\.\d\d)/(?P<limit>\d+\.\d\d)MB \((?P<percent>\d+\.\d\d)%\))?"
)
MIB = 2**20
LARGEST = 10_000  # characters of the longest message there may be
MAKE = "insert into campaigns (name, message) select $1, repeat(chr(64 + i % 26), $2) from generate_series(1, $3) i returning id"


def fill_the_fallback_cache(resilience: Resilience, campaigns: int) -> None:
    """With Redis away, campaigns that are read stay in the service's own memory."""
    ids = [row["id"] for row in sql(resilience, MAKE, NAME, LARGEST, campaigns)]
    with resilience.redis.refuse():
        for begin in range(0, len(ids), 100):
            few = ids[begin : begin + 100]
            replies = concurrently([lambda few=few: [resilience.service.get(f"/api/campaigns/{i}") for i in few][-1]])
            assert not FORCED_GC.search(resilience.service.log), "the guard must not cry before memory is short"
            assert {reply.status for reply in replies} == {200}, "a read fails although memory is not short"


def stats(resilience: Resilience) -> tuple[dict[str, float], float]:
    """The next line of statistics, and the resident size in MB as the kernel tells it at that time."""
    seen = len(STATS.findall(resilience.service.log))

    def line() -> dict[str, float] | None:
        found = list(STATS.finditer(resilience.service.log))
        return {name: float(value or 0) for name, value in found[-1].groupdict().items()} if len(found) > seen else None

    told = eventually(line, within=2 * healthy.MEMORY_STATS_INTERVAL + healthy.SLACK)
    return told, resilience.service.process.memory_info().rss / MIB


def data_of(process: psutil.Process) -> tuple[int, int]:
    """What the process holds of its data limit, and the limit."""
    found = re.search(r"^VmData:\s+(\d+) kB$", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024, process.rlimit(psutil.RLIMIT_DATA)[0]


def test_the_guard_forces_a_collection_that_frees_memory_and_logs_true_figures(resilience: Resilience) -> None:
    campaigns = 1000
    empty, rss = stats(resilience)
    assert not FORCED_GC.search(resilience.service.log), "the guard must not cry before memory is short"
    assert abs(empty["rss"] - rss) < 0.03 * rss, (
        f"the statistics say RSS {empty['rss']} MB; it is {rss:.2f} MB (2^20 bytes)"
    )
    assert empty["used"] <= empty["total"] <= empty["rss"], f"the heap does not fit into itself: {empty}"
    assert abs(empty["share"] - 100 * empty["used"] / empty["total"]) < 0.1, (
        f"the heap's share is miscalculated: {empty}"
    )
    assert empty["limit"] <= healthy.MEMORY_LIMIT_MB, f"the limit is {healthy.MEMORY_LIMIT_MB} MB or less: {empty}"

    fill_the_fallback_cache(resilience, campaigns)
    full, rss = stats(resilience)
    assert abs(full["rss"] - rss) < 0.03 * rss, (
        f"the statistics say RSS {full['rss']} MB; it is {rss:.2f} MB (2^20 bytes)"
    )
    grown, held = full["external"] - empty["external"], campaigns * LARGEST / MIB
    assert 0.9 * held < grown < 1.25 * held, f"{held:.1f} MB are held in the cache, and External grew by {grown:.1f} MB"
    assert not FORCED_GC.search(resilience.service.log), "the guard must not cry before memory is short"

    process = resilience.service.process
    before = process.memory_info().rss / MIB
    with reading(resilience, "/health") as asked, resilience.service.memory_pressure(headroom_mb=4):
        data, limit = data_of(process)
        message = f"memory is short, and after {healthy.GUARD_WITHIN:g} s the guard has not forced a collection"
        seen = [data]

        def forced() -> re.Match[str] | None:
            found = FORCED_GC.search(resilience.service.log)
            if found is None:
                seen.append(data_of(process)[0])  # it grows a little, as it answers
            return found

        found = eventually_or_fail(forced, within=healthy.GUARD_WITHIN, message=message)
        used, least, most = float(found[1]), 100 * min(seen) / limit, 100 * max(seen) / limit
        assert used > 90, f"the guard acts above 90 %, and says {used}"
        assert least - 2 < used < most + 2, (
            f"{least:.1f} to {most:.1f} % of the limit were used, and the guard says {used}"
        )
        freed = eventually(lambda: FREED.search(resilience.service.log, found.end()), within=healthy.GUARD_WITHIN)
        told, _ = stats(resilience)
        after = process.memory_info().rss / MIB
        assert after < before - held / 4, f"memory does not come down: RSS was {before:.1f} MB, it is {after:.1f} MB"
        heap, external, total = (float(number) for number in freed.groups())
        assert abs(total - (before - after)) < 2, (
            f"it says it freed {total} MB in total; RSS fell by {before - after:.1f} MB"
        )
        let_go = full["external"] - told["external"]
        assert abs(external - let_go) < 2, (
            f"it says it freed {external} MB external, and there are {let_go:.1f} MB less"
        )
        assert let_go < healthy.MAX_CACHE_SHARE_FREED * held, (
            f"it lets go of {let_go:.1f} of {held:.1f} MB in the cache: what is left is all there is while Redis is away"
        )
        assert abs(heap) < 10, f"it says it freed {heap} MB of a heap of {full['used']} MB"
        if told["limit"]:
            assert abs(told["limit"] - limit / MIB) < 1, f"the limit is {limit / MIB:.1f} MB by now: {told}"
        assert resilience.service.get("/livez").status_code == 200
        # What was freed can be used again: the service serves, although its limit has not moved.
        recovers(lambda: resilience.service.get("/api/campaigns?limit=1").status_code == 200, within=5.0)

    slowest = max(each.seconds for each in asked)
    assert slowest < healthy.GUARD_MAX_STALL, f"the guard kept everybody waiting for {slowest:.2f} s"
    lines = resilience.service.log.count("forcing GC")
    assert lines == 1, f"one line for one episode, not {lines}"
    recovers(lambda: resilience.service.get("/api/campaigns?limit=1").status_code == 200, within=5.0)


def test_near_its_memory_limit_it_sheds_load_logs_that_once_and_serves_essential_routes(resilience: Resilience) -> None:
    def refused() -> bool:
        reply = resilience.service.post("/api/campaigns", json={"name": "n", "message": "m"})
        return reply.status_code == 503 and "Retry-After" in reply.headers

    with resilience.service.memory_pressure(headroom_mb=0.5):
        message = "more than 95 % of the limit is in use, and work is not refused"
        eventually_or_fail(refused, within=healthy.GUARD_WITHIN, message=message)
        ready = resilience.service.get("/readyz")
        assert ready.status_code == 503, f"it refuses work for lack of memory and claims to be ready: {ready.text}"
        assert ready.json()["checks"]["memory"] == "refusing", ready.text
        for path in ("/health", "/livez", "/api/db-cleanup"):
            answer = resilience.service.get(path)
            assert answer.status_code == 200, (
                f"{path} is needed most when memory is short: {answer.status_code} {answer.text}"
            )
        told = len(STATS.findall(resilience.service.log))
        eventually(
            lambda: len(STATS.findall(resilience.service.log)) >= told + 3, within=5.0
        )  # the guard looks as often
        lines = resilience.service.log.count("forcing GC")
        assert lines == 1, f"one line for one episode, not {lines}"
    recovers(lambda: not refused() and resilience.service.get("/readyz").status_code == 200, within=5.0)
    for what in ("work is served again", "usage is back to normal"):
        line = re.compile(rf"\[Memory\] RESOLVED: {what}: (\d+\.\d\d)%")
        message = f"memory is there again, and no line of the log says that {what}"
        value = eventually_or_fail(lambda line=line: line.search(resilience.service.log), within=5.0, message=message)
        assert float(value[1]) < 93, f"{what}, it says, at {value[1]} %"
        times = len(line.findall(resilience.service.log))
        assert times == 1, f"one line for the end of one episode, not {times}"


def test_readyz_names_memory_when_load_is_shed_from_the_start(resilience: Resilience) -> None:
    """Somebody who reads "starting" waits; there is nothing to wait for."""
    with another_instance(resilience, ready=False, MEMORY_LIMIT_MB="10", MEMORY_CHECK_INTERVAL="0.05") as instance:

        def told() -> dict[str, Any]:
            answer: dict[str, Any] = instance.client.get("/readyz").json()
            return answer

        message = "it has less memory than it needs, and /readyz does not say so"
        eventually_or_fail(
            lambda: told()["checks"]["memory"] == "refusing", within=healthy.GUARD_WITHIN, message=message
        )
        eventually_or_fail(lambda: told()["checks"]["postgres"] == "up", within=5.0, message="Postgres is there")
        assert told()["status"] == "unavailable", f"it refuses work for lack of memory, and calls that {told()}"


def test_failed_allocations_are_503_and_the_process_survives(resilience: Resilience) -> None:
    """With little headroom or none an allocation fails, here or there; that is a 503, not the end of the process."""
    pid = resilience.service.process.pid
    huge = b'{"name": "huge", "message": "' + b"x" * 900_000 + b'"}'
    big = {"name": "big", "message": "x" * LARGEST}
    for headroom in (3, 2, 0):
        with resilience.service.memory_pressure(headroom_mb=headroom):
            # All at once, before the guard has looked; then one by one, as it looks.
            replies = concurrently([lambda: resilience.service.post("/api/campaigns", content=huge)] * 24)
            replies += [timed(lambda: resilience.service.post("/api/campaigns", json=big)) for _ in range(10)]
            statuses = {reply.status for reply in replies}
            # None: where there is no memory to read a request into, its connection is closed. 422: there was enough of it.
            wrong = statuses - {201, 422, 503, None}
            assert not wrong, f"a lack of memory is 503, never {wrong}"
            assert resilience.service.process.is_running(), "the process did not survive a lack of memory"
            message = "short of memory, the service does not even answer /livez"
            eventually_or_fail(lambda: resilience.service.get("/livez").status_code == 200, within=5.0, message=message)
        recovers(
            lambda: resilience.service.post("/api/campaigns", json={"name": "n", "message": "m"}).status_code == 201,
            within=5.0,
        )
    assert resilience.service.process.pid == pid, "the process did not survive"


def test_the_guard_obeys_the_memory_limit_of_its_cgroup(resilience: Resilience) -> None:
    """What a container's limit does: the kernel kills who takes more, and no allocation fails before that."""
    campaigns, limit = 1500, 12
    ids = [row["id"] for row in sql(resilience, MAKE, NAME, LARGEST, campaigns)]
    with another_instance(resilience, MEMORY_CHECK_INTERVAL="0.05", CACHE_MAX_MB="256") as instance:
        try:
            group = resilience.process(instance.process.pid).memory_limit(headroom_mb=limit)
        except CannotInject as error:
            pytest.skip(str(error))
        with group, resilience.redis.refuse():
            for i in ids:
                assert not instance.has_exited(), (
                    f"the kernel killed it at {limit} MB of its control group, and the guard had not acted"
                )
                assert timed(lambda i=i: instance.client.get(f"/api/campaigns/{i}")).status in (200, 503, None)
            assert FORCED_GC.search(instance.log), (
                f"{campaigns * LARGEST / MIB:.0f} MB came, and no collection was forced"
            )
        recovers(lambda: instance.client.get(f"/api/campaigns/{ids[-1]}").status_code == 200, within=5.0)


def test_garbage_is_collected_every_gc_interval(resilience: Resilience) -> None:
    with another_instance(resilience, GC_INTERVAL="0.5") as instance:
        for _ in range(100):
            assert (
                instance.client.post("/api/campaigns", json={"name": "n", "message": "m" * LARGEST}).status_code == 201
            )
        message = "GC_INTERVAL passes again and again, and nothing is collected"
        eventually_or_fail(lambda: FREED.search(instance.log), within=0.5 + 2 * healthy.SLACK, message=message)
