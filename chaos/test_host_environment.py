"""Whatever it runs in, it sees its own surroundings rightly: groups within groups, the page cache, the clock, and a crowd."""

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
import instances
from instances import another_instance
from pytest_resilience import Resilience
from verbs import uncached_campaigns
from workload import FELL_BACK, NAME, concurrently, eventually_or_fail, redis_commands, timed

MIB = 2**20
FORCED_GC = "forcing GC"
STATS = "[Memory Stats]"
LARGEST = 10_000  # characters of the longest message there may be
JUMP = 7200.0  # seconds that the time of day jumps
# Before the service is imported, in its process: the time of day jumps when a file is there. Time that passes does not.
JUMPS = """
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


def group_of(pid: int) -> tuple[Path, str]:
    """The control group that a process is in, as a directory, and the name of its limit of memory."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return Path(f"/sys/fs/cgroup/memory{path}"), "memory.limit_in_bytes"
        if not controllers and Path("/sys/fs/cgroup/cgroup.controllers").exists():
            return Path(f"/sys/fs/cgroup{path}"), "memory.max"
    raise FileNotFoundError("no control group for memory")


def removed(directory: Path) -> bool:
    """True if an empty control group is gone. A process that was killed keeps it for a moment."""
    directory.rmdir()
    return True


@contextmanager
def group(pid: int, limit: int | None) -> Iterator[Path]:
    """A control group around a process, within the one that it is in, with a limit in bytes or none; skips where there can be none."""
    made = None
    try:
        outer, name = group_of(pid)
        made = outer / f"chaos-{os.getpid()}-{pid}"
        made.mkdir()
        if limit is not None:
            (made / name).write_text(str(limit))
        (made / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        if made is not None and made.exists():
            made.rmdir()
        pytest.skip(f"no control group with a limit of memory can be made here: {error}")
    try:
        yield made
    finally:
        for each in (made / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):  # it may have ended
                (outer / "cgroup.procs").write_text(each)
        eventually_or_fail(lambda: removed(made), within=5.0, message=f"the control group {made} cannot be removed")


def looks(instance: instances.Instance, count: int) -> None:
    """Wait until memory was looked at so often: the statistics come as often."""
    told = instance.log.count(STATS)
    eventually_or_fail(
        lambda: instance.log.count(STATS) > told + count,
        within=20.0,
        message=f"{count} periods pass, and the statistics do not come",
    )


def test_the_guard_obeys_the_memory_limit_of_a_parent_cgroup(resilience: Resilience) -> None:
    """A container in a pod: its own group may have no limit, and the pod's counts."""
    campaigns, limit = 1500, 12
    ids = uncached_campaigns(resilience, campaigns, message="x" * LARGEST)
    with another_instance(resilience, MEMORY_CHECK_INTERVAL="0.05", CACHE_MAX_MB="256") as instance:
        pid = instance.process.pid
        with group(pid, limit * MIB), group(pid, None), resilience.redis.refuse():
            for i in ids:
                assert not instance.has_exited(), (
                    f"the kernel killed it at {limit} MB of the group around its own, and the guard had not acted"
                )
                status = timed(lambda i=i: instance.client.get(f"/api/campaigns/{i}")).status
                assert status in (200, 503, None), f"memory is short, and a read is answered {status}"
                if i % 20 == 0 and FORCED_GC in instance.log:
                    break
            assert FORCED_GC in instance.log, (
                f"{campaigns * LARGEST // MIB} MB came, {limit} MB are the limit of the group around its own, and the guard"
                " has not acted"
            )


READS = """
import os, sys
open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
file = os.open(sys.argv[2], os.O_RDONLY)
while os.read(file, 1 << 20):
    pass
print("done", flush=True)
sys.stdin.read()
"""


def test_the_page_cache_does_not_count_as_used_memory(resilience: Resilience) -> None:
    """Whoever reads a log or makes a backup in the container fills its group; the kernel gives that up when memory is needed."""
    limit = 48 * MIB
    with (
        another_instance(resilience, MEMORY_CHECK_INTERVAL="0.05", MEMORY_STATS_INTERVAL="0.05") as instance,
        tempfile.NamedTemporaryFile(dir=instances.ROOT) as file,
        group(instance.process.pid, limit) as own,
    ):
        for _ in range(2 * limit // MIB):
            file.write(os.urandom(MIB))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with subprocess.Popen(
            [sys.executable, "-c", READS, str(own), file.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as reads:
            try:
                assert reads.stdout is not None
                assert reads.stdout.readline() == b"done\n", "the file could not be read in the group"
                used = next(own / name for name in ("memory.usage_in_bytes", "memory.current") if (own / name).exists())
                share = int(used.read_text()) / limit
                if share < 0.9:
                    pytest.skip(
                        f"this kernel keeps no files in memory that were read: {share:.0%} of the group is in use"
                    )
                looks(instance, 10)
                status = instance.client.get("/readyz").status_code
            finally:
                reads.kill()
        assert FORCED_GC not in instance.log, (
            f"{share:.0%} of the group is full of files that were read, which can be given up, and the guard acts"
        )
        assert status == 200, f"the group is full of files that were read, and /readyz is {status}"


def test_jumps_of_the_wall_clock_change_no_age_and_no_interval(
    resilience: Resilience, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody sets the clock, or a machine wakes up: what lasts a minute lasts a minute."""
    with tempfile.TemporaryDirectory() as scratch:
        jump = Path(scratch, "jump")
        monkeypatch.setattr(instances, "RUN", JUMPS.format(file=str(jump)) + instances.RUN)
        quick = {"MEMORY_STATS_INTERVAL": "0.1", "DB_POOL_CHECK_INTERVAL": "0.1", "CLEANUP_MIN_INTERVAL": "600"}
        with another_instance(resilience, **quick) as instance:
            path = instance.client.post("/api/campaigns", json={"name": NAME, "message": "m"}).headers["Location"]
            assert instance.client.post("/api/db-cleanup").status_code == 200
            before = instance.client.get("/health").json()
            asked = time.monotonic()
            with resilience.redis.refuse():
                eventually_or_fail(
                    lambda: instance.client.get(path).headers["X-Cache-Source"] == "memory",
                    within=healthy.REDIS_BACK_WITHIN,
                    message="Redis is away, and memory does not serve",
                )
                for seconds in (JUMP, -JUMP):
                    how = f"the time of day jumps by {seconds:+g} s"
                    jump.write_text(str(seconds))
                    health = instance.client.get("/health").json()
                    off = datetime.fromisoformat(health["timestamp"]).timestamp() - time.time() - seconds
                    assert abs(off) < 60, (
                        f"the clock was not set in the service's process: {health}, so nothing was tested"
                    )
                    passed = health["uptime"] - before["uptime"]
                    most = time.monotonic() - asked + 1.0
                    assert 0 < passed < most, f"{how}, {most:.1f} s pass at most, and uptime grows by {passed:.1f} s"
                    said = instance.client.get(path)
                    assert (said.status_code, said.headers.get("X-Cache")) == (200, "hit"), (
                        f"{how}, and a copy in memory that is seconds old is a {said.headers.get('X-Cache')}"
                    )
                    status = instance.client.post("/api/db-cleanup").status_code
                    assert status == 429, f"{how}, and a cleanup just after another one is answered {status}"
                    told = instance.log.count(STATS)
                    eventually_or_fail(
                        lambda told=told: instance.log.count(STATS) >= told + 3,
                        within=5.0,
                        message=f"{how}, and what is done every so often is not done any more",
                    )
                    status = instance.client.post("/api/campaigns", json={"name": NAME, "message": "m"}).status_code
                    assert status == 201, f"{how}, and a write is answered {status}"
            assert "ALERT" not in instance.log, "the time of day jumps, and the pool is said to be in use"
            eventually_or_fail(
                lambda: instance.client.get(path).headers["X-Cache-Source"] == "redis",
                within=healthy.REDIS_BACK_WITHIN,
                message="the time of day jumped while Redis was away; it is back, and is not used",
            )


def test_a_crowd_of_readers_does_not_make_a_healthy_redis_count_as_down(resilience: Resilience) -> None:
    """Each answer takes far less than the budget; who waits for others longer than that goes to Postgres, and says nothing of Redis."""
    ids = uncached_campaigns(resilience, 1)
    with another_instance(resilience, REDIS_BUDGET="2", DB_POOL_MAX="20", DB_POOL_ACQUIRE_TIMEOUT="20") as instance:
        path = f"/api/campaigns/{ids[0]}"
        eventually_or_fail(
            lambda: instance.client.get(path).headers["X-Cache-Source"] == "redis",
            within=5.0,
            message="Redis is there, and is not used",
        )
        many = [path.replace(str(ids[0]), str(i)) for i in uncached_campaigns(resilience, 200)]
        with resilience.redis.latency(seconds=0.3):  # a new connection may take several answers to be made
            answers = concurrently([lambda each=each: instance.client.get(each) for each in many])
        statuses = {each.status for each in answers}
        assert statuses == {200}, f"many ask at once, and are answered {statuses}"
        assert FELL_BACK not in instance.log, (
            f"Redis answers each in 0.3 s, the budget is 2 s, and with {len(many)} readers at once it is called away:"
            f" {instance.log[instance.log.find(FELL_BACK) :][:200]}"
        )


def test_a_service_that_was_suspended_does_not_treat_redis_as_down(resilience: Resilience) -> None:
    """A laptop that sleeps, a container that is frozen: when it goes on, all of its time-outs are over, and none is Redis' fault."""
    ids, budget = uncached_campaigns(resilience, 10), 1.0
    with (
        another_instance(resilience, REDIS_BUDGET=str(budget)) as instance,
        redis_commands(resilience) as ask,
        ThreadPoolExecutor(len(ids)) as threads,
    ):

        def looked_up() -> int:
            """How often Redis was asked for the age of a copy, as each read does."""
            calls: int = ask("INFO", "commandstats").get("cmdstat_pttl", {"calls": 0})["calls"]
            return calls

        eventually_or_fail(
            lambda: instance.client.get(f"/api/campaigns/{ids[0]}").headers["X-Cache-Source"] == "redis",
            within=5.0,
            message="Redis is there, and is not used",
        )
        process = resilience.process(instance.process.pid)
        with resilience.redis.latency(seconds=budget / 2):
            before = looked_up()
            asked = [threads.submit(timed, lambda i=i: instance.client.get(f"/api/campaigns/{i}")) for i in ids]
            eventually_or_fail(
                lambda: looked_up() >= before + len(ids),
                within=5.0,
                message="Redis is there, and reads do not ask it",
            )
            with process.pause():
                time.sleep(1.3 * budget)  # longer than the budget: that is the fault
            statuses = {each.result().status for each in asked}
        assert statuses == {200}, f"the service was stopped for a moment, and reads are answered {statuses}"
        assert FELL_BACK not in instance.log, (
            "the service was stopped for a moment, Redis was not, and it is called away:"
            f" {instance.log[instance.log.find(FELL_BACK) :][:200]}"
        )
