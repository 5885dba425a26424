"""Every threshold is exact and has hysteresis. The pool's alert and the memory guard act just above it, and do not flap around it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from instances import Instance, another_instance
from pytest_resilience import Resilience
from verbs import uncached_campaigns
from workload import eventually_or_fail, postgres_session, timed, wait_until_unready

ALERT = "ALERT: CRITICAL - database_pool_exhausted"
RESOLVED = "RESOLVED: database_pool_exhausted"
STATS = re.compile(r"\[Memory Stats\].*\| Limit: \d+\.\d\d/\d+\.\d\dMB \((\d+\.\d\d)%\)")
FORCED_GC = re.compile(r"\[Memory\] High heap usage: (\d+\.\d\d)%, forcing GC")
SHEDDING = re.compile(r"\[Memory\] refusing work that is not essential: (\d+\.\d\d)%")
SERVING = re.compile(r"\[Memory\] RESOLVED: work is served again: (\d+\.\d\d)%")
NORMAL = re.compile(r"\[Memory\] RESOLVED: usage is back to normal: (\d+\.\d\d)%")
POOL = 20  # connections: one is 5 %
POOL_CHECKED = 0.1  # seconds between two pool checks, and between two lines of statistics, which show that one was made
MEMORY_CHECKED = 0.05  # seconds between two memory checks, and between two lines of statistics
STEP = 0.7  # percent of the limit


def wait_for_checks(instance: Instance, count: int) -> None:
    """Wait for a number of checks. Statistics are logged as often, and one more line shows that all checks were made."""
    before = len(STATS.findall(instance.log))
    eventually_or_fail(
        lambda: len(STATS.findall(instance.log)) > before + count,
        within=20.0,
        message=f"{count} periods have passed, and no statistics are logged",
    )


class PoolLoad:
    """Requests that each hold a connection of every instance, because a foreign session has locked the row they change."""

    def __init__(self, resilience: Resilience, threads: ThreadPoolExecutor, instances: list[Instance]) -> None:
        self._resilience = resilience
        self._threads = threads
        self._instances = instances
        self._locks: list[ExitStack] = []

    def hold(self, count: int) -> None:
        """Hold exactly this many connections of each instance."""
        while len(self._locks) > count:
            self._locks.pop().close()
        for i in uncached_campaigns(self._resilience, max(0, count - len(self._locks))):
            lock = ExitStack()
            statement = f"select 1 from campaigns where id = {i} for update"
            lock.enter_context(postgres_session(self._resilience, "another application", "begin", statement))
            self._locks.append(lock)
            for instance in self._instances:
                self._threads.submit(
                    timed, lambda i=i, client=instance.client: client.put(f"/api/campaigns/{i}", json={"message": "m"})
                )


@contextmanager
def pool_load(resilience: Resilience, *instances: Instance) -> Iterator[PoolLoad]:
    """Yield a load for the instances, and release it when the block ends."""
    with ThreadPoolExecutor(2 * POOL * len(instances)) as threads:
        load = PoolLoad(resilience, threads, list(instances))
        try:
            yield load
        finally:
            load.hold(0)


def test_the_pool_alert_has_an_exact_threshold_and_hysteresis(resilience: Resilience) -> None:
    settings = {
        "DB_POOL_MAX": str(POOL),
        "DB_POOL_CHECK_INTERVAL": str(POOL_CHECKED),
        "MEMORY_STATS_INTERVAL": str(POOL_CHECKED),
        "DB_COMMAND_TIMEOUT": "120",
    }
    with (
        another_instance(resilience, DB_POOL_ALERT_PERCENT="90", **settings) as at,
        another_instance(resilience, DB_POOL_ALERT_PERCENT="89.9", **settings) as above,
        pool_load(resilience, at, above) as load,
    ):
        load.hold(16)
        wait_for_checks(above, 4)
        assert ALERT not in above.log, (
            "80 % of the pool are in use, DB_POOL_ALERT_PERCENT is 89.9, and the alert is raised"
        )
        load.hold(18)
        message = "90 % of the pool are in use, DB_POOL_ALERT_PERCENT is 89.9, and no alert is raised"
        eventually_or_fail(lambda: ALERT in above.log, within=5.0, message=message)
        wait_for_checks(at, 8)
        assert ALERT not in at.log, "exactly 90 % of the pool are in use, not more, and the alert of 90 % is raised"

        load.hold(15)
        wait_for_checks(above, 4)
        assert RESOLVED not in above.log, (
            "75 % of the pool are in use, and an alert of 89.9 % is resolved, which needs less than 75 %"
        )
        load.hold(18)
        wait_for_checks(above, 4)
        alerts = above.log.count(ALERT)
        assert alerts == 1, (
            f"use went from 90 to 75 % and back, and there are {alerts} alerts: from 75 % on it is one episode"
        )
        load.hold(14)
        message = "70 % of the pool are in use, and the alert is not resolved"
        eventually_or_fail(lambda: RESOLVED in above.log, within=5.0, message=message)
        load.hold(18)
        message = "90 % of the pool are in use again after an alert was resolved, and no second one is raised"
        eventually_or_fail(lambda: above.log.count(ALERT) == 2, within=5.0, message=message)
        assert ALERT not in at.log, "use was never above 90 %, and the alert of 90 % is raised"
        load.hold(14)
        message = "70 % of the pool are in use, and the second alert is not resolved"
        eventually_or_fail(lambda: above.log.count(RESOLVED) == 2, within=5.0, message=message)


class MemoryPressure:
    """Lowers and raises the data limit of a process, so that a given share of the limit is in use.

    Attributes:
        percent: the share that is in use now.
    """

    def __init__(self, instance: Instance, percent: float) -> None:
        self.percent = percent
        self._instance = instance
        self._process = psutil.Process(instance.process.pid)
        self._before = self._process.rlimit(psutil.RLIMIT_DATA)
        self._in_use = 0

    def apply(self, percent: float, checks: int) -> None:
        """Let this share of the limit be in use for a number of memory checks."""
        if not self._in_use:
            self._in_use = self._data_bytes()
        self._process.rlimit(psutil.RLIMIT_DATA, (int(self._in_use / percent * 100), self._before[1]))
        wait_for_checks(self._instance, checks)

    def step_until(self, line: re.Pattern[str], *, step: float, until: float, message: str, checks: int = 2) -> None:
        """Change the share step by step until a line is logged, and fail with `message` at the share `until`."""
        while not line.search(self._instance.log):
            assert self.percent < until if step > 0 else self.percent > until, f"{message} ({self.percent:.1f} %)"
            self.apply(self.percent, checks)
            self.percent += step

    def heal(self) -> None:
        """Restore the limit."""
        self._process.rlimit(psutil.RLIMIT_DATA, self._before)

    def _data_bytes(self) -> int:
        found = re.search(r"VmData:\s+(\d+) kB", Path(f"/proc/{self._instance.process.pid}/status").read_text())
        assert found is not None
        return int(found[1]) * 1024


@contextmanager
def memory_pressure(instance: Instance, percent: float) -> Iterator[MemoryPressure]:
    """Yield the pressure on an instance, beginning at a share of the limit, and heal it when the block ends."""
    pressure = MemoryPressure(instance, percent)
    try:
        yield pressure
    finally:
        pressure.heal()


@pytest.fixture
def frequent_checks() -> dict[str, str]:
    """Settings with which memory is checked often and nothing else frees memory."""
    return {
        "MEMORY_CHECK_INTERVAL": str(MEMORY_CHECKED),
        "MEMORY_STATS_INTERVAL": str(MEMORY_CHECKED),
        "GC_INTERVAL": "3600",
        "DB_POOL_CHECK_INTERVAL": "3600",
    }


def logged_percent(line: re.Pattern[str], instance: Instance, event: str) -> float:
    """Return the percentage in a log line, and assert that the line is there once."""
    values = line.findall(instance.log)
    assert len(values) == 1, (
        f"memory runs short and recovers once, slowly, and {len(values)} lines report that {event}: {values}"
    )
    return float(values[0])


def test_the_memory_guard_has_exact_thresholds_and_hysteresis(
    resilience: Resilience, frequent_checks: dict[str, str]
) -> None:
    """Memory runs short slowly and recovers slowly, so each line is logged once, just beyond its threshold."""
    with (
        another_instance(resilience, **frequent_checks) as instance,
        memory_pressure(instance, 88.0) as pressure,
    ):
        while pressure.percent < 89.0:
            pressure.apply(pressure.percent, 2)
            pressure.percent += STEP
        assert not FORCED_GC.search(instance.log), (
            f"less than 90 % is in use ({pressure.percent - STEP:.1f}), and the guard acts"
        )
        pressure.step_until(FORCED_GC, step=STEP, until=110, message="memory is short, and the guard does not act")
        # Shares between two thresholds are skipped: a line that comes too early reports a share on the wrong side.
        pressure.percent += 3.0  # to 94 %
        pressure.step_until(SHEDDING, step=STEP, until=110, message="the limit is exceeded, and load is not shed")
        pressure.step_until(SERVING, step=-STEP, until=70, message="memory is free again, and load is still shed")
        again = pressure.percent + 2 * STEP
        for each in (again, again - STEP, again, again - STEP):  # around the threshold below which work is served
            pressure.apply(each, 2)
        message = "memory is free again, and the episode is not over"
        pressure.percent -= 9.0  # to 84 %
        pressure.step_until(NORMAL, step=-STEP, until=60, message=message, checks=5)
        forced, shedding = (
            logged_percent(FORCED_GC, instance, "memory is short"),
            logged_percent(SHEDDING, instance, "work is refused"),
        )
        serving, normal = (
            logged_percent(SERVING, instance, "work is served again"),
            logged_percent(NORMAL, instance, "memory is back to normal"),
        )
    width = 2 * STEP
    assert 90 < forced < 90 + width, f"the guard acts above 90 %, and it acted at {forced} %"
    assert 95 <= shedding < 95 + width, f"load is shed from 95 % on, and it was shed at {shedding} %"
    assert 93 - width < serving < 93, f"work is served again below 93 %, and it was served at {serving} %"
    assert 80 - width < normal < 80, f"the episode is over below 80 %, and it was over at {normal} %"


def test_a_lasting_memory_shortage_halves_the_cache_at_most_every_10_seconds(
    resilience: Resilience, frequent_checks: dict[str, str]
) -> None:
    """Each forced collection evicts half of the cache, and while Redis is down the cache is all there is."""
    campaigns = 40
    ids = uncached_campaigns(resilience, campaigns)
    with another_instance(resilience, **frequent_checks) as instance, resilience.redis.refuse():
        for i in ids:
            assert instance.client.get(f"/api/campaigns/{i}").status_code == 200
        with memory_pressure(instance, 91.0) as pressure:
            pressure.step_until(FORCED_GC, step=0.3, until=110, message="memory is short, and no collection is forced")
            pressure.apply(pressure.percent + 1.2, 20)  # more than 90 % is in use all the time
            assert not SHEDDING.search(instance.log)
            with resilience.postgres.refuse():
                wait_until_unready(instance.client, within=5.0)
                cached = [i for i in ids if instance.client.get(f"/api/campaigns/{i}").status_code == 200]
    left = len(cached)
    assert left >= campaigns // 4, (
        f"memory was short for 20 checks, and {left} of {campaigns} cached campaigns are left: half goes once in 10 s, no more"
    )
    assert cached == ids[-left:], (
        f"the campaigns {ids} were read in this order, and those left are {cached}, not the newest {left}"
    )


# A second lasts 20 s for the guard.
FAST_GUARD = """
from service.memory.guard import MemoryGuard

sample, record = MemoryGuard.sample, MemoryGuard.record_collection
MemoryGuard.sample = lambda guard, usage, now: sample(guard, usage, 20 * now)
MemoryGuard.record_collection = lambda guard, now, **values: record(guard, 20 * now, **values)

"""
ROUNDED = 0.001  # seconds: the resolution of the times in the log
COOLDOWN = 0.5  # seconds between two collections there, which are 10 s for the guard
COLLECTED = re.compile(r"(\S+) INFO \S+ \[Memory\] \S+: \d+ of \d+ cache entries left")
FORCED_AT = re.compile(rf"(\S+) WARNING \S+ {FORCED_GC.pattern}")


def test_memory_that_stays_short_is_collected_again(resilience: Resilience, frequent_checks: dict[str, str]) -> None:
    """Garbage may have gathered since the first collection. The episode has one warning nevertheless."""
    with (
        another_instance(resilience, first=FAST_GUARD, **frequent_checks) as instance,
        memory_pressure(instance, 91.0) as pressure,
    ):
        pressure.step_until(FORCED_GC, step=0.3, until=110, message="memory is short, and no collection is forced")
        pressure.apply(pressure.percent + 1.2, 1)  # more than 90 % is in use all the time
        message = "memory stays short, and no second collection is forced"
        eventually_or_fail(lambda: len(COLLECTED.findall(instance.log)) >= 2, within=5 * COOLDOWN, message=message)
        (first, _), again = FORCED_AT.findall(instance.log)[0], COLLECTED.findall(instance.log)[1]
        paused = (datetime.fromisoformat(again) - datetime.fromisoformat(first)).total_seconds()
        assert paused > COOLDOWN - ROUNDED, f"memory is collected again after {20 * paused:.1f} s, and not after 10 s"
        logged_percent(FORCED_GC, instance, "memory is short")
