"""The service interprets its host correctly, from nested cgroups and the page cache to clock jumps, crowds and suspension."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest

import healthy
from instances import FORCED_GC, FREQUENT_CHECKS, READS_BETWEEN_CHECKS, ROOT, STATISTICS, Instance, another_instance
from pytest_resilience import Resilience
from verbs import uncached_campaigns
from workload import FELL_BACK, NAME, concurrently, eventually_or_fail, metrics, redis_commands, timed

MIB = 2**20
LARGEST = "😀" * 10_000  # the largest valid message: four bytes for each character
JUMP = 7200.0  # seconds
# Runs in the service's process before the service is imported. The wall clock jumps by the number in a file, if that exists.
JUMPING_CLOCK = """
import datetime, os, time
_file, _time, _datetime = {file!r}, time.time, datetime.datetime
def _now():
    try:
        return _time() + float(open(_file).read() or 0)
    except OSError:
        return _time()
time.time, time.time_ns = _now, lambda: int(_now() * 1e9)
class datetime_(_datetime):
    @classmethod
    def now(cls, tz=None):
        return _datetime.fromtimestamp(_now(), tz)
    @classmethod
    def utcnow(cls):
        return _datetime.fromtimestamp(_now(), datetime.timezone.utc).replace(tzinfo=None)
datetime.datetime = datetime_
"""


def memory_cgroup_of(pid: int) -> tuple[Path, str]:
    """Return the directory of a process's memory cgroup, and the name of the file with its limit."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return Path(f"/sys/fs/cgroup/memory{path}"), "memory.limit_in_bytes"
        if not controllers and Path("/sys/fs/cgroup/cgroup.controllers").exists():
            return Path(f"/sys/fs/cgroup{path}"), "memory.max"
    raise FileNotFoundError("no memory cgroup")


def removed(directory: Path) -> bool:
    """Remove an empty cgroup. A killed process keeps its cgroup for a short time, and then this fails."""
    directory.rmdir()
    return True


@contextmanager
def memory_cgroup(pid: int, limit: int | None) -> Iterator[Path]:
    """Move a process into a new cgroup below its own, and skip the test where that is not permitted.

    Args:
        pid: the process.
        limit: bytes, or None for no limit.
    """
    cgroup = None
    try:
        parent, name = memory_cgroup_of(pid)
        cgroup = parent / f"chaos-{os.getpid()}-{pid}"
        cgroup.mkdir()
        if limit is not None:
            (cgroup / name).write_text(str(limit))
        (cgroup / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        if cgroup is not None and cgroup.exists():
            cgroup.rmdir()
        pytest.skip(f"no cgroup with a memory limit can be created here: {error}")
    try:
        yield cgroup
    finally:
        for each in (cgroup / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):  # the process may have ended
                (parent / "cgroup.procs").write_text(each)
        eventually_or_fail(lambda: removed(cgroup), within=5.0, message=f"the cgroup {cgroup} cannot be removed")


def test_the_guard_obeys_the_memory_limit_of_a_parent_cgroup(resilience: Resilience) -> None:
    """A container in a pod may have no limit in its own cgroup, while the pod's limit applies."""
    campaigns, limit = 375, 12
    ids = uncached_campaigns(resilience, campaigns, message=LARGEST)
    with another_instance(resilience, CACHE_MAX_MB="256", **FREQUENT_CHECKS) as instance:
        metrics(instance.client)  # imports 2 MB that would be imported 5 s after the start
        pid = instance.process.pid
        with memory_cgroup(pid, limit * MIB), memory_cgroup(pid, None), resilience.redis.refuse():
            for i in ids:
                assert not instance.has_exited(), (
                    f"the kernel killed the service at the parent cgroup's {limit} MB, and the guard had not acted"
                )
                status = timed(lambda i=i: instance.client.get(f"/api/campaigns/{i}")).status
                assert status in (200, 503, None), f"memory is short, and a read gets {status}, not 200 or 503"
                if i % READS_BETWEEN_CHECKS == 0:
                    instance.wait_for_guard()
                    if FORCED_GC in instance.log:
                        break
            assert FORCED_GC in instance.log, (
                f"{campaigns * len(LARGEST.encode()) // MIB} MB were read, the limit of the parent cgroup is {limit} MB, and the guard"
                " has not acted"
            )


READ_FILE = """
import os, sys
open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
file = os.open(sys.argv[2], os.O_RDONLY)
while os.read(file, 1 << 20):
    pass
print("done", flush=True)
sys.stdin.read()
"""


@contextmanager
def page_cache_filled(cgroup: Path, limit: int) -> Iterator[float]:
    """Read a file of twice the limit inside a cgroup, and yield the share of the limit that is in use, or skip if that is low."""
    with tempfile.NamedTemporaryFile(dir=ROOT) as file:
        for _ in range(2 * limit // MIB):
            file.write(os.urandom(MIB))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with subprocess.Popen(
            [sys.executable, "-c", READ_FILE, str(cgroup), file.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as reader:
            try:
                assert reader.stdout is not None
                assert reader.stdout.readline() == b"done\n", "the file could not be read inside the cgroup"
                names = ("memory.usage_in_bytes", "memory.current")
                usage = next(cgroup / name for name in names if (cgroup / name).exists())
                share = int(usage.read_text()) / limit
                if share < 0.9:
                    pytest.skip(f"this kernel does not keep files in memory that were read: only {share:.0%} is in use")
                yield share
            finally:
                reader.kill()


def test_the_page_cache_does_not_count_as_used_memory(resilience: Resilience) -> None:
    """Reading a log or a backup in the container fills its cgroup with cached files, which the kernel frees on demand."""
    limit = 48 * MIB
    with (
        another_instance(resilience, **FREQUENT_CHECKS) as instance,
        memory_cgroup(instance.process.pid, limit) as cgroup,
    ):
        with page_cache_filled(cgroup, limit) as share:
            instance.wait_for_statistics(10)
            status = instance.client.get("/readyz").status_code
        assert FORCED_GC not in instance.log, (
            f"{share:.0%} of the cgroup is page cache, which can be freed, and the guard acts"
        )
        assert status == 200, f"the cgroup is full of page cache, and /readyz is {status}, not 200"


class JumpingClock:
    """The wall clock of an instance, which a file makes jump."""

    def __init__(self, instance: Instance, file: Path) -> None:
        self._instance = instance
        self._file = file
        self._begin = time.monotonic()
        self._uptime_at_begin = instance.client.get("/health").json()["uptime"]

    def jump(self, seconds: float) -> None:
        """Set the clock, and assert that the timestamp of /health follows it and that its uptime does not."""
        self._file.write_text(str(seconds))
        health = self._instance.client.get("/health").json()
        difference = datetime.fromisoformat(health["timestamp"]).timestamp() - time.time() - seconds
        assert abs(difference) < 60, f"the clock of the service did not jump: {health}, so nothing was tested"
        passed = health["uptime"] - self._uptime_at_begin
        most = time.monotonic() - self._begin + 1.0
        assert 0 < passed < most, (
            f"the wall clock jumps by {seconds:+g} s, at most {most:.1f} s pass, and uptime grows by {passed:.1f} s"
        )


def assert_works_after_jump(instance: Instance, path: str, seconds: float) -> None:
    """Assert that cache, rate limit, periodic work and writes are as before the jump."""
    event = f"the wall clock jumps by {seconds:+g} s"
    read = instance.client.get(path)
    state = read.headers.get("X-Cache")
    assert (read.status_code, state) == (200, "hit"), f"{event}, and a copy in memory that is seconds old is a {state}"
    status = instance.client.post("/api/db-cleanup").status_code
    assert status == 429, f"{event}, and a cleanup right after another one gets {status}, not 429"
    before = instance.log.count(STATISTICS)
    eventually_or_fail(
        lambda: instance.log.count(STATISTICS) >= before + 3, within=5.0, message=f"{event}, and periodic work stops"
    )
    status = instance.client.post("/api/campaigns", json={"name": NAME, "message": "m"}).status_code
    assert status == 201, f"{event}, and a write gets {status}, not 201"


def test_jumps_of_the_wall_clock_change_no_age_and_no_interval(resilience: Resilience) -> None:
    """The clock jumps when it is set or when a machine resumes. A minute must remain a minute."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "jump")
        settings = {"MEMORY_STATS_INTERVAL": "0.1", "DB_POOL_CHECK_INTERVAL": "0.1", "CLEANUP_MIN_INTERVAL": "600"}
        with another_instance(resilience, first=JUMPING_CLOCK.format(file=str(file)), **settings) as instance:
            path = instance.client.post("/api/campaigns", json={"name": NAME, "message": "m"}).headers["Location"]
            assert instance.client.post("/api/db-cleanup").status_code == 200
            clock = JumpingClock(instance, file)
            with resilience.redis.refuse():
                eventually_or_fail(
                    lambda: instance.client.get(path).headers["X-Cache-Source"] == "memory",
                    within=healthy.REDIS_BACK_WITHIN,
                    message="Redis is down, and memory does not serve",
                )
                for seconds in (JUMP, -JUMP):
                    clock.jump(seconds)
                    assert_works_after_jump(instance, path, seconds)
            assert "ALERT" not in instance.log, "the wall clock jumps, and an alert reports the pool as full"
            eventually_or_fail(
                lambda: instance.client.get(path).headers["X-Cache-Source"] == "redis",
                within=healthy.REDIS_BACK_WITHIN,
                message="the wall clock jumped while Redis was down; Redis is back, and is not used",
            )


def lines_from(log: str, text: str) -> str:
    """Return the log from the first occurrence of a text, shortened."""
    return log[log.find(text) :][:200]


def wait_until_redis_serves_instance(instance: Instance, path: str) -> None:
    """Wait until a read of an instance is served by Redis."""
    eventually_or_fail(
        lambda: instance.client.get(path).headers["X-Cache-Source"] == "redis",
        within=5.0,
        message="Redis is up, and is not used",
    )


def test_a_crowd_of_readers_does_not_make_a_healthy_redis_count_as_down(resilience: Resilience) -> None:
    """Each reply takes far less than the budget. A read that queues for longer uses Postgres, which proves nothing about Redis."""
    (first,) = uncached_campaigns(resilience, 1)
    with another_instance(resilience, REDIS_BUDGET="2", DB_POOL_MAX="20", DB_POOL_ACQUIRE_TIMEOUT="20") as instance:
        wait_until_redis_serves_instance(instance, f"/api/campaigns/{first}")
        paths = [f"/api/campaigns/{i}" for i in uncached_campaigns(resilience, 200)]
        with resilience.redis.latency(seconds=0.3):  # opening a connection may take several replies
            replies = concurrently([lambda path=path: instance.client.get(path) for path in paths])
        statuses = {each.status for each in replies}
        assert statuses == {200}, f"{len(paths)} concurrent reads get {statuses}, not 200"
        assert FELL_BACK not in instance.log, (
            f"Redis takes 0.3 s for a reply, the budget is 2 s, and with {len(paths)} concurrent readers it counts as down:"
            f" {lines_from(instance.log, FELL_BACK)}"
        )


def test_a_service_that_was_suspended_does_not_treat_redis_as_down(resilience: Resilience) -> None:
    """All time-outs have expired when a laptop or a container resumes, and none of them is the fault of Redis."""
    ids, budget = uncached_campaigns(resilience, 10), 1.0
    with (
        another_instance(resilience, REDIS_BUDGET=str(budget)) as instance,
        redis_commands(resilience) as command,
        ThreadPoolExecutor(len(ids)) as threads,
    ):

        def lookups() -> int:
            """Return how often the age of a copy was queried, as each read does."""
            calls: int = command("INFO", "commandstats").get("cmdstat_pttl", {"calls": 0})["calls"]
            return calls

        wait_until_redis_serves_instance(instance, f"/api/campaigns/{ids[0]}")
        process = resilience.process(instance.process.pid)
        with resilience.redis.latency(seconds=budget / 2):
            before = lookups()
            reads = [threads.submit(timed, lambda i=i: instance.client.get(f"/api/campaigns/{i}")) for i in ids]
            eventually_or_fail(
                lambda: lookups() >= before + len(ids), within=5.0, message="Redis is up, and reads do not query it"
            )
            with process.pause():
                time.sleep(1.3 * budget)  # the suspension is longer than the budget
            statuses = {each.result().status for each in reads}
        assert statuses == {200}, f"the service was suspended, and reads get {statuses}, not 200"
        assert FELL_BACK not in instance.log, (
            f"the service was suspended, Redis was not, and Redis counts as down: {lines_from(instance.log, FELL_BACK)}"
        )
