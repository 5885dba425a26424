"""The alert of the pool, the schedule of checks, and the alert under real starvation."""

import asyncio
import errno
import re
import time

import pytest

from pytest_resilience import eventually
from service.monitor import PoolAlert, run_every

ALERT = "ALERT: CRITICAL - database_pool_exhausted"
VALUE = re.compile(
    r"Database connection pool usage has exceeded 90%\. Current value: (\d+\.\d\d), Threshold: 90$", re.MULTILINE
)


@pytest.fixture(scope="session")
def resilience_service(service_spec):
    return service_spec(restart_between_tests=True, db_pool_check_interval=0.5)


def test_an_episode_raises_the_alert_once():
    alert = PoolAlert(90)
    assert [alert.check(p) for p in (89, 91, 95, 80, 92)] == [None, "raised", None, None, None]


def test_two_checks_below_75_percent_end_an_episode():
    alert = PoolAlert(90)
    assert [alert.check(p) for p in (91, 74, 76, 74, 91)] == ["raised", None, None, None, None]
    assert [alert.check(p) for p in (74, 74, 91)] == [None, "resolved", "raised"]
    assert [alert.check(p) for p in (10, 10, 10, 10)] == [None, "resolved", None, None]


def test_exactly_the_threshold_is_not_above():
    assert not PoolAlert(90).check(90.0)


def test_the_lines_have_their_form():
    assert PoolAlert(90).alert_lines(94.4567) == (
        "ALERT: CRITICAL - database_pool_exhausted",
        "Database connection pool usage has exceeded 90%. Current value: 94.46, Threshold: 90",
    )


def test_checks_run_on_schedule_and_missed_ones_are_skipped(monkeypatch):
    now, ran = 0.0, []

    async def sleep(seconds):
        nonlocal now
        now += seconds

    async def check():
        nonlocal now
        ran.append(now)
        now += 25 if len(ran) == 2 else 1
        if len(ran) == 3:
            raise ValueError("a check that fails does not end the loop")
        if len(ran) == 5:
            raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(run_every(10, check, lambda: now))
    assert ran == [10, 20, 45, 50, 60]


def test_a_check_that_lacks_a_descriptor_is_left_to_the_supervision_of_the_loop():
    async def check():
        raise OSError(errno.EMFILE, "Too many open files")

    with pytest.raises(OSError, match="Too many open files"):
        asyncio.run(asyncio.wait_for(run_every(0.01, check, time.monotonic), 2.0))


def test_starvation_raises_the_alert_once(resilience, service, campaign):
    from concurrent.futures import ThreadPoolExecutor

    url = f"/api/campaigns/{campaign['id']}"
    with resilience.postgres.starve(lock="campaigns"), ThreadPoolExecutor(10) as pool:
        for _ in range(2):
            list(pool.map(lambda _: service.put(url, json={"name": "x"}).status_code, range(10)))
        eventually(lambda: ALERT in service.log, within=2)
    assert service.log.count(ALERT) == 1
    assert "RESOLVED" not in service.log
    eventually(lambda: "RESOLVED: database_pool_exhausted - Current value: " in service.log, within=4)
    assert float(re.search(r"RESOLVED: .* value: (\d+\.\d\d),", service.log)[1]) < 75
    values = [float(value) for value in VALUE.findall(service.log)]
    assert len(values) == 1
    assert 90 < values[0] <= 100
