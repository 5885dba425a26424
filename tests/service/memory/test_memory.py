"""The decisions of the memory guard with literals, and the service under a real limit."""

import asyncio
import errno
import os
import re
import subprocess
import sys

import psutil
import pytest

from pytest_resilience import eventually
from service.memory.collector import GarbageCollector, GcResult, GcTotals, MemoryStats, read_memory_stats
from service.memory.guard import MemoryGuard
from service.memory.malloc import MIB
from service.memory.usage import Cgroup, MemoryUsage

HIGH = re.compile(r"\[Memory\] High heap usage: \d+\.\d\d%, forcing GC")
FREED = re.compile(r"\[GC\] Freed -?\d+\.\d\dMB heap, -?\d+\.\d\dMB external, -?\d+\.\d\dMB total")


@pytest.fixture(scope="session")
def resilience_service(service_spec):
    return service_spec(restart_between_tests=True)


def usage(percent, reusable=0):
    return MemoryUsage(used=percent * 10, limit=1000, resource="RSS", reusable=reusable * 10)


def decisions(guard, *samples):
    """Return the action for each (second, percent) or (second, percent, percent that malloc holds free)."""
    return [guard.sample(usage(*rest), now) for now, *rest in samples]


def test_an_episode_is_announced_once():
    assert decisions(MemoryGuard(), (0, 50), (1, 91), (2, 92), (3, 91)) == [None, "announce", None, None]


def test_a_forced_collection_is_repeated_after_the_cooldown_while_memory_is_short():
    assert decisions(MemoryGuard(), (0, 91), (9, 91), (10, 91), (11, 91)) == ["announce", None, "again", None]


def test_an_episode_ends_after_three_samples_below_80_percent():
    guard = MemoryGuard()
    assert decisions(guard, (0, 91), (1, 79), (2, 79), (3, 85), (4, 79), (5, 79), (6, 91)) == ["announce", *[None] * 6]
    assert decisions(guard, (7, 79), (8, 79), (9, 79), (10, 91)) == [None, None, None, "announce"]


def test_exactly_90_percent_is_not_above():
    assert decisions(MemoryGuard(), (0, 90)) == [None]


def test_memory_that_malloc_holds_free_does_not_prolong_an_episode():
    guard = MemoryGuard()
    assert decisions(guard, (0, 96, 2), (20, 96, 17), (21, 96, 17), (22, 96, 17)) == ["announce", None, None, None]
    assert decisions(guard, (23, 96, 17), (24, 97, 3)) == [None, "announce"]


def test_a_long_collection_that_freed_nothing_is_not_repeated_soon():
    guard = MemoryGuard()
    guard.sample(usage(91), 0)
    guard.record_collection(1, seconds=0.3, freed_share=0.0)
    assert decisions(guard, (20, 91), (300, 91), (302, 91)) == [None, None, "again"]


def test_work_is_refused_from_95_percent_until_below_93():
    guard = MemoryGuard()
    refusing = [guard.sample(usage(p), 0) or guard.refusing for p in (94, 95, 93, 92, 94)]
    assert refusing == ["announce", True, True, False, False]


def test_the_lines_have_their_form():
    freed = GcResult(heap=int(12.22 * MIB), external=0, rss=int(-0.38 * MIB), seconds=0.1)
    assert freed.log_line() == "[GC] Freed 12.22MB heap, 0.00MB external, -0.38MB total"
    stats = MemoryStats(129 * MIB, int(39.57 * MIB), int(42.85 * MIB), int(13.57 * MIB))
    assert stats.log_line(MemoryUsage(512 * MIB, 4096 * MIB, "RSS")) == (
        "[Memory Stats] RSS: 129.00MB | Heap: 39.57/42.85MB (92.35%) | External: 13.57MB | Limit: 512.00/4096.00MB (12.50%)"
    )


STARTED = """
import asyncio, gc
gc.disable()
from service.memory.collector import GarbageCollector
collector = GarbageCollector()
collector.start()
collector.close()
raise SystemExit(not (gc.isenabled() and gc.get_freeze_count() > 1000))
"""


def test_collections_begin_after_the_start_and_leave_its_modules_alone():
    assert subprocess.run([sys.executable, "-c", STARTED]).returncode == 0


def test_totals_never_decrease_when_use_grows_during_a_collection():
    totals = GcTotals()
    totals.add(GcResult(heap=3, external=4, rss=0, seconds=0.5))
    totals.add(GcResult(heap=-9, external=2, rss=0, seconds=0.25))
    assert (totals.collections, totals.seconds, totals.freed) == (2, 0.75, 7)


def test_statistics_that_a_platform_lacks_are_left_out():
    assert (
        MemoryStats(129 * MIB, None, None, None)
        .log_line(MemoryUsage(1, 4, "RSS"))
        .startswith("[Memory Stats] RSS: 129.00MB | Limit: ")
    )


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("1000\n", MemoryUsage(500, 1000, "cgroup")), ("max\n", None), ("9223372036854771712\n", None), (None, None)],
)
def test_reclaimable_page_cache_of_a_control_group_does_not_count(tmp_path, limit, expected):
    if limit is not None:
        (tmp_path / "limit").write_text(limit)
    (tmp_path / "usage").write_text("800\n")
    (tmp_path / "stat").write_text("anon 500\ninactive_file 300\nslab 10\n")
    group = Cgroup(tmp_path / "limit", tmp_path / "usage", tmp_path / "stat", "inactive_file ")
    assert group.read_usage() == expected


@pytest.mark.skipif(sys.platform != "linux", reason="the statistics of pymalloc are read through a file in memory")
def test_the_statistics_follow_allocations():
    before = read_memory_stats()
    small, large = [object() for _ in range(100_000)], [os.urandom(4096) for _ in range(5000)]
    after = read_memory_stats()
    assert after.heap_used - before.heap_used == pytest.approx(sys.getsizeof(object()) * len(small), rel=0.1)
    assert after.external - before.external == pytest.approx(4096 * len(large) + sys.getsizeof(small), rel=0.1)
    # malloc uses its free memory first, so RSS may grow by less. It must equal the value from the kernel.
    assert after.rss == pytest.approx(psutil.Process().memory_info().rss, rel=0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="the statistics of pymalloc are read through a file in memory")
def test_statistics_that_cannot_be_read_leave_no_descriptor_open(monkeypatch):
    def fail(_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", fail)
    before = psutil.Process().num_fds()
    assert read_memory_stats().heap_used is None
    assert psutil.Process().num_fds() == before


def test_a_collection_frees_cycles_and_returns_their_pages():
    collector = GarbageCollector()
    try:
        cycles = []
        for _ in range(10_000):
            one = {"payload": os.urandom(2048)}
            one["me"] = one
            cycles.append(one)
        freed = asyncio.run(collector.collect(evict=cycles.clear))
        assert freed.external > 15 * MIB
        assert freed.rss > 10 * MIB
    finally:
        collector.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a data limit that can be lowered from outside")
def test_the_guard_acts_close_to_the_limit(resilience, service):
    rows = [
        service.post("/api/campaigns", json={"name": "n", "message": "m" * 10_000}).json()["id"] for _ in range(150)
    ]
    before = service.process.memory_info().rss
    resilience.service.memory_pressure(headroom_mb=3)
    eventually(lambda: HIGH.search(service.log) and FREED.search(service.log), within=4)
    eventually(lambda: service.process.memory_info().rss < before - MIB / 2, within=4)
    assert service.get("/health").status_code == 200
    eventually(lambda: service.get(f"/api/campaigns/{rows[0]}").status_code == 200, within=4)
    assert len(HIGH.findall(service.log)) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a data limit that can be lowered from outside")
def test_without_free_memory_the_process_survives_and_answers(resilience, service):
    large = b'{"name":"n","message":"' + b"m" * 900_000 + b'"}'
    with resilience.service.memory_pressure(headroom_mb=0):
        eventually(lambda: FREED.search(service.log), within=4)
        for _ in range(20):
            reply = service.post("/api/campaigns", content=large)
            assert reply.status_code in (422, 503)
            assert service.get("/health").status_code == 200
            assert service.get("/livez").status_code == 200
    eventually(lambda: service.post("/api/campaigns", json={"name": "n", "message": "m"}).status_code == 201, within=4)
    eventually(lambda: service.get("/readyz").status_code == 200, within=4)
