"""Each limit acts where it says: just below nothing happens, just above it does, and around it nothing flutters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from instances import Instance, another_instance
from pytest_resilience import Resilience, eventually
from verbs import uncached_campaigns
from workload import eventually_or_fail, postgres_session, timed

ALERT = "ALERT: CRITICAL - database_pool_exhausted"
RESOLVED = "RESOLVED: database_pool_exhausted"
STATS = re.compile(r"\[Memory Stats\].*\| Limit: \d+\.\d\d/\d+\.\d\dMB \((\d+\.\d\d)%\)")
CRIED = re.compile(r"\[Memory\] High heap usage: (\d+\.\d\d)%, forcing GC")
REFUSES = re.compile(r"\[Memory\] refusing work that is not essential: (\d+\.\d\d)%")
SERVES = re.compile(r"\[Memory\] RESOLVED: work is served again: (\d+\.\d\d)%")
CALM = re.compile(r"\[Memory\] RESOLVED: usage is back to normal: (\d+\.\d\d)%")
POOL = 10  # connections: one is 10 %
CHECKED = (
    0.2  # seconds between two checks of the pool, and between two lines of statistics, which tell that one was made
)
LOOKED = 0.05  # seconds between two looks at memory, and between two lines of statistics
STEP = 0.7  # percent of the limit


def checks(instance: Instance, count: int) -> None:
    """Wait until so many checks have been made: as many lines of statistics, which come as often, and one more."""
    told = len(STATS.findall(instance.log))
    eventually_or_fail(
        lambda: len(STATS.findall(instance.log)) > told + count,
        within=20.0,
        message=f"{count} periods pass, and the statistics do not come",
    )


class Load:
    """Requests that hold connections of instances: each waits for a row that a session of somebody else has locked."""

    def __init__(self, resilience: Resilience, threads: ThreadPoolExecutor, instances: list[Instance]) -> None:
        self._resilience = resilience
        self._threads = threads
        self._instances = instances
        self._held: list[ExitStack] = []

    def hold(self, count: int) -> None:
        """Hold so many connections of each instance, no more and no less."""
        while len(self._held) > count:
            self._held.pop().close()
        ids = uncached_campaigns(self._resilience, max(0, count - len(self._held)))
        for i in ids:
            held = ExitStack()
            held.enter_context(
                postgres_session(
                    self._resilience, "somebody else", "begin", f"select 1 from campaigns where id = {i} for update"
                )
            )
            self._held.append(held)
            for instance in self._instances:
                self._threads.submit(
                    timed, lambda i=i, client=instance.client: client.put(f"/api/campaigns/{i}", json={"message": "m"})
                )


@contextmanager
def load(resilience: Resilience, *instances: Instance) -> Iterator[Load]:
    with ThreadPoolExecutor(2 * POOL * len(instances)) as threads:
        made = Load(resilience, threads, list(instances))
        try:
            yield made
        finally:
            made.hold(0)


def test_the_pool_alert_has_an_exact_threshold_and_hysteresis(resilience: Resilience) -> None:
    settings = {
        "DB_POOL_MAX": str(POOL),
        "DB_POOL_CHECK_INTERVAL": str(CHECKED),
        "MEMORY_STATS_INTERVAL": str(CHECKED),
        "DB_COMMAND_TIMEOUT": "120",
    }
    with (
        another_instance(resilience, DB_POOL_ALERT_PERCENT="90", **settings) as at,
        another_instance(resilience, DB_POOL_ALERT_PERCENT="89.9", **settings) as above,
        load(resilience, at, above) as pool,
    ):
        pool.hold(8)
        checks(above, 4)
        assert ALERT not in above.log, (
            "80 % of the pool are in use, DB_POOL_ALERT_PERCENT is 89.9, and the alert is raised"
        )
        pool.hold(9)
        message = "90 % of the pool are in use, DB_POOL_ALERT_PERCENT is 89.9, and no alert is raised"
        eventually_or_fail(lambda: ALERT in above.log, within=5.0, message=message)
        checks(at, 8)
        assert ALERT not in at.log, "just 90 % of the pool are in use, not more, and the alert of 90 % is raised"

        pool.hold(8)
        checks(above, 4)
        assert RESOLVED not in above.log, (
            "80 % of the pool are in use, and an alert of 89.9 % is over; it is below 75 %"
        )
        pool.hold(9)
        checks(above, 4)
        alerts = above.log.count(ALERT)
        assert alerts == 1, (
            f"use went from 90 to 80 % and back, and there are {alerts} alerts: it is one episode above 75 %"
        )
        pool.hold(7)
        message = "70 % of the pool are in use, and the episode is not over"
        eventually_or_fail(lambda: RESOLVED in above.log, within=5.0, message=message)
        pool.hold(9)
        message = "the pool is at 90 % again after an episode was over, and no second alert is raised"
        eventually_or_fail(lambda: above.log.count(ALERT) == 2, within=5.0, message=message)
        assert ALERT not in at.log, "it was never above 90 %, and the alert of 90 % is raised"


class Squeeze:
    """Sets the data limit of a process so that a share of it is in use."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._process = psutil.Process(instance.process.pid)
        self._before = self._process.rlimit(psutil.RLIMIT_DATA)
        self.share = 0.0

    def to(self, percent: float, looks: int) -> None:
        """Let so much of the limit be in use for so many looks."""
        if self.share == 0.0:
            self._in_use = self._data()
        self.share = percent
        self._process.rlimit(psutil.RLIMIT_DATA, (int(self._in_use / percent * 100), self._before[1]))
        checks(self._instance, looks)

    def heal(self) -> None:
        self._process.rlimit(psutil.RLIMIT_DATA, self._before)

    def _data(self) -> int:
        found = re.search(r"VmData:\s+(\d+) kB", Path(f"/proc/{self._instance.process.pid}/status").read_text())
        assert found is not None
        return int(found[1]) * 1024


@contextmanager
def squeezed(instance: Instance) -> Iterator[Squeeze]:
    squeeze = Squeeze(instance)
    try:
        yield squeeze
    finally:
        squeeze.heal()


@pytest.fixture
def looking() -> dict[str, str]:
    """Settings with which memory is looked at often."""
    return {
        "MEMORY_CHECK_INTERVAL": str(LOOKED),
        "MEMORY_STATS_INTERVAL": str(LOOKED),
        "GC_INTERVAL": "3600",
        "DB_POOL_CHECK_INTERVAL": "3600",
    }


def once(pattern: re.Pattern[str], instance: Instance, what: str) -> float:
    """The percentage that a line tells which must be in the log once."""
    told = pattern.findall(instance.log)
    assert len(told) == 1, (
        f"memory runs short and comes back once, slowly, and {len(told)} lines say that {what}: {told}"
    )
    return float(told[0])


def test_the_memory_guard_has_exact_thresholds_and_hysteresis(resilience: Resilience, looking: dict[str, str]) -> None:
    """Memory runs short slowly, and comes back slowly: each line tells at how much, and comes once."""
    with another_instance(resilience, **looking) as instance, squeezed(instance) as squeeze:
        percent = 85.0
        while percent < 89.0:
            squeeze.to(percent, 2)
            percent += STEP
        assert not CRIED.search(instance.log), f"less than 90 % is in use ({percent - STEP:.1f}), and the guard acts"
        while not REFUSES.search(instance.log):
            assert percent < 110, f"{percent:.1f} % of the limit at the start is in use, and work is not refused"
            squeeze.to(percent, 2)
            percent += STEP
        while not SERVES.search(instance.log):
            assert percent > 70, "memory is there again, and work is not served"
            squeeze.to(percent, 2)
            percent -= STEP
        again = percent + 2 * STEP
        for each in (again, again - STEP, again, again - STEP):  # around the limit below which it serves
            squeeze.to(each, 2)
        while not CALM.search(instance.log):
            assert percent > 60, "memory is there again, and the episode is not over"
            squeeze.to(percent, 5)
            percent -= STEP
        cried, refuses = once(CRIED, instance, "memory is short"), once(REFUSES, instance, "work is refused")
        serves, calm = once(SERVES, instance, "work is served again"), once(CALM, instance, "memory is back to normal")
    width = 2 * STEP
    assert 90 < cried < 90 + width, f"the guard acts above 90 %, and it acted at {cried} %"
    assert 95 <= refuses < 95 + width, f"work is refused from 95 % on, and it was refused at {refuses} %"
    assert 93 - width < serves < 93, f"work is served again below 93 %, and it was served at {serves} %"
    assert 80 - width < calm < 80, f"the episode is over below 80 %, and it was over at {calm} %"


def test_a_lasting_memory_shortage_halves_the_cache_at_most_every_10_seconds(
    resilience: Resilience, looking: dict[str, str]
) -> None:
    """Each forced collection costs half of the cache: while Redis is away, the cache is all there is."""
    campaigns = 40
    ids = uncached_campaigns(resilience, campaigns)
    with another_instance(resilience, **looking) as instance, resilience.redis.refuse():
        for i in ids:
            assert instance.client.get(f"/api/campaigns/{i}").status_code == 200
        with squeezed(instance) as squeeze:
            percent = 91.0
            while not CRIED.search(instance.log):
                squeeze.to(percent, 2)
                percent += 0.3
            squeeze.to(percent + 1.2, 20)  # more than 90 % is really needed, all the time
            assert not REFUSES.search(instance.log)
            with resilience.postgres.refuse():
                eventually(lambda: instance.client.get("/readyz").status_code == 503, within=5.0)
                left = [instance.client.get(f"/api/campaigns/{i}").status_code for i in ids].count(200)
    assert left >= campaigns // 4, (
        f"memory was short for 20 looks, and {left} of {campaigns} cached campaigns are left: half goes once in 10 s, no more"
    )
