"""Each period of a cadence has one step, whatever fails in between, and periods that were missed become one step."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

from instances import another_instance, describe_service
from pytest_resilience import Resilience, Service, Stack, Strike, eventually
from workload import (
    create,
    eventually_or_fail,
    metric,
    sql,
    sql_connection,
    wait_for_row,
    wait_until_ready,
    wait_until_redis_is,
)

EVERY = 0.2  # seconds; the length of a period
REPEAT = 100  # periods, more than any test lives to see
MISSED = 7  # periods that a fault lasts
LATE = 1.0  # seconds that a step may be early or late
REDIS_BUDGET = 1.5  # seconds; long enough to kill the service while it enqueues
CLAIM = 2.0  # seconds until a step that was claimed and not enqueued is due again
INTERRUPTED = 8.0  # seconds until a job that a fault interrupted runs again
OVER = "select 1 from cadences where campaign_id = $1 and due_at = 'infinity' and claimed_until is null"
REFUSED = "The queue takes no jobs, so due steps wait:"
TAKEN_AGAIN = "RESOLVED: the queue takes jobs again"
YEAR = 365 * 86_400.0  # seconds
# The limits of each field, and values that are just beyond them or of another type.
LIMITS: dict[str, tuple[tuple[object, ...], tuple[object, ...]]] = {
    "every_seconds": ((0.1, 1, YEAR), (0.099, 0, -1, YEAR + 1, "1", True, None)),
    "repeat": ((1, 10_000), (0, -1, 10_001, 1.5, "1", True, None)),
}
BACK_WITHIN = 4.0  # seconds from the heal until due steps are delivered again, also by BullMQ's worker


@pytest.fixture(scope="session")
def resilience_service(resilience_stack: Stack) -> Service:
    return describe_service(resilience_stack, JOURNAL_MAX_JOBS="1", REDIS_BUDGET=str(REDIS_BUDGET))


def start_cadence(resilience: Resilience, every: float = EVERY, repeat: int = REPEAT, client: Any = None) -> int:
    """Create a campaign with a cadence and a contact, and return its number."""
    sql(resilience, "insert into contacts (email) values ('one@example.com') on conflict do nothing")
    number: int = create(resilience)["id"]
    body = {"every_seconds": every, "repeat": repeat}
    reply = (client or resilience.service).put(f"/api/campaigns/{number}/cadence", json=body)
    assert (reply.status_code, reply.json()) == (200, body), f"PUT of a cadence gets {reply.status_code} {reply.text}"
    return number


def delivered(resilience: Resilience, number: int) -> list[tuple[int, float]]:
    """Return each step that is delivered, with the time of its first delivery in seconds."""
    query = """
        select step, extract(epoch from min(delivered_at))::float8 from deliveries
         where campaign_id = $1 group by step order by step"""
    return [(row[0], row[1]) for row in sql(resilience, query, number)]


def steps(resilience: Resilience, number: int) -> list[int]:
    """Return the numbers of the steps that are delivered."""
    return [step for step, _ in delivered(resilience, number)]


def wait_for_steps(resilience: Resilience, number: int, count: int, *, within: float = BACK_WITHIN) -> list[int]:
    """Wait until that many steps are delivered, and return their numbers."""
    enough = "select count(distinct step) >= $2 from deliveries where campaign_id = $1"
    message = f"a step is due every {EVERY} s, and {count} steps are not delivered within {within:g} s"
    wait_for_row(resilience, enough, number, count, within=within, message=message)
    return steps(resilience, number)


def cadence_state(resilience: Resilience) -> str:
    """Return the state of the cadence that /readyz reports."""
    reply = resilience.service.get("/readyz")
    assert reply.status_code == 200, "a cadence that is late makes the service unready"
    state: str = reply.json()["checks"]["cadence"]
    return state


def lag(resilience: Resilience) -> float:
    """Return the lag of the most overdue step in seconds, which the metrics report."""
    return metric(resilience.service, "service_cadence_lag_seconds")


def wait_until_late(resilience: Resilience) -> None:
    """Wait until /readyz reports that the cadence is late, and assert that the metrics agree. No step may be enqueued meanwhile."""
    looks: list[tuple[float, str, float]] = []

    def look() -> bool:
        looks.append((lag(resilience), cadence_state(resilience), lag(resilience)))
        return looks[-1][1] == "late"

    message = f"the queue took no jobs, and after {LATE:g} s /readyz does not report that the cadence is late"
    eventually_or_fail(look, within=LATE + CLAIM, message=message)
    for before, state, after in looks:
        assert after > LATE if state == "late" else before <= LATE, (
            f"a cadence is late when a step has been due for more than {LATE:g} s, and /readyz reports {state!r} with a lag of "
            f"{before:.2f} to {after:.2f} s in the metrics"
        )


def assert_no_step_is_missing(resilience: Resilience, number: int, reason: str = "") -> None:
    """Assert that each step before the last one is delivered, soon. A step that a fault interrupted is delivered later."""
    last = max(steps(resilience, number))
    message = f"{reason}not all of the steps 1 to {last} are delivered"
    expected = set(range(1, last + 1))
    eventually_or_fail(lambda: expected <= set(steps(resilience, number)), within=INTERRUPTED, message=message)


def existing_jobs(resilience: Resilience, number: int) -> int:
    """Return the number of steps of a campaign that have a job."""
    paths = (f"/api/jobs/campaign-{number}-{step}" for step in range(1, REPEAT))
    return sum(1 for _ in takewhile(lambda path: resilience.service.get(path).status_code == 200, paths))


def test_two_instances_enqueue_each_period_once_and_one_goes_on_alone(resilience: Resilience) -> None:
    together, alone = 6, 3  # periods
    with another_instance(resilience, preloaded=False) as instance:
        number = start_cadence(resilience, repeat=together + alone, client=instance.client)
        wait_for_steps(resilience, number, together, within=together * EVERY + LATE + 1.0)
        found = delivered(resilience, number)[:together]
    numbers, times = zip(*found, strict=True)
    assert numbers == tuple(range(1, together + 1)), f"the first {together} periods have the steps {numbers}"
    took = times[-1] - times[0]
    assert took > (together - 3) * EVERY, f"{together} periods of {EVERY} s are over in {took:.2f} s"
    for step, moment in found:
        late = moment - times[0] - (step - 1) * EVERY
        assert abs(late) < LATE, f"step {step} is {late:+.2f} s from its period of {EVERY} s"
    message = "the instance of the request is killed, and another instance does not go on with the cadence"
    over = "select 1 from cadences where campaign_id = $1 and due_at = 'infinity'"
    wait_for_row(resilience, over, number, within=alone * EVERY + CLAIM + LATE, message=message)
    assert_no_step_is_missing(resilience, number)


def stop_postgres(resilience: Resilience) -> Strike:
    return resilience.postgres.refuse()


def stop_service(resilience: Resilience) -> Strike:
    return resilience.service.pause()


@pytest.mark.parametrize("strike", [stop_postgres, stop_service], ids=["outage", "stall"])
def test_missed_periods_become_one_step(resilience: Resilience, strike: Callable[[Resilience], Strike]) -> None:
    begin = time.monotonic()
    number = start_cadence(resilience)
    wait_for_steps(resilience, number, 1)
    with strike(resilience):
        struck = time.monotonic()
        before = steps(resilience, number)
        time.sleep(MISSED * EVERY)  # the length of the fault, which is the matter of this test
        missed = int((time.monotonic() - struck) / EVERY)
    wait_for_steps(resilience, number, len(before) + 3)
    time.sleep(2 * EVERY)  # for the steps of a storm
    periods = (time.monotonic() - begin) / EVERY
    found = steps(resilience, number)
    assert max(found) <= periods - missed + 2, (
        f"of {periods:.1f} periods {missed} were missed, and {max(found)} steps are delivered: missed periods become one step"
    )
    assert_no_step_is_missing(resilience, number)


def test_no_step_is_lost_while_the_queue_takes_no_jobs(resilience: Resilience) -> None:
    """The journal has room for one job here, so from the second step on the queue refuses."""
    number, _ = start_cadence(resilience), start_cadence(resilience)
    wait_for_steps(resilience, number, 1)
    with resilience.redis.refuse():
        wait_until_redis_is(resilience.service, "down", within=3.0)
        message = "the queue took no jobs, and a due step does not wait in Postgres"
        waiting = "select 1 from cadences where claimed_until is not null and campaign_id = $1"
        wait_for_row(resilience, waiting, number, within=CLAIM, message=message)
        before = len(steps(resilience, number))
        wait_until_late(resilience)
    wait_for_steps(resilience, number, before + 3, within=2 * BACK_WITHIN)
    assert_no_step_is_missing(resilience, number, "the queue took no jobs for a while, and ")
    message = "no step is late any more, and /readyz reports that the cadence is"
    eventually_or_fail(lambda: cadence_state(resilience) == "ok", within=2.0, message=message)
    message = "no step is late any more, and the metrics report a lag"
    eventually_or_fail(lambda: lag(resilience) < LATE, within=2.0, message=message)
    first = [resilience.service.log.count(line) for line in (REFUSED, TAKEN_AGAIN)]
    with resilience.redis.refuse():
        message = "the queue takes no jobs a second time, and no line of the log reports that"
        eventually_or_fail(
            lambda: resilience.service.log.count(REFUSED) > first[0], within=BACK_WITHIN, message=message
        )
    start_cadence(resilience, every=0.1)  # the steps that the queue refused wait for the end of their claims
    message = "the queue takes jobs a second time, and no line of the log reports that"
    eventually_or_fail(
        lambda: resilience.service.log.count(TAKEN_AGAIN) > first[1], within=BACK_WITHIN, message=message
    )
    lines = [resilience.service.log.count(line) for line in (REFUSED, TAKEN_AGAIN)]
    assert lines == [2, 2], f"the queue took no jobs two times, and the log has {lines} lines for begin and end"
    reasons = re.findall(f"{REFUSED} (.*)", resilience.service.log)
    assert reasons == ["The journal of jobs is full."] * 2, (
        f"the queue takes no jobs, and the log names the reasons {reasons}"
    )


def test_a_step_survives_a_kill_between_its_claim_and_its_job(resilience: Resilience) -> None:
    number = start_cadence(resilience, every=0.5, repeat=1)
    with resilience.redis.blackhole():
        claimed = "select 1 from cadences where step = 1 and campaign_id = $1"
        with sql_connection(resilience) as fetch_value:
            eventually(lambda: fetch_value(claimed, number), within=0.5 + LATE)
        time.sleep(0.2)  # a confirmation that comes before the job would be there by now
        killed = resilience.service.kill()
    killed.heal()
    wait_until_ready(resilience.service)
    wait_for_steps(resilience, number, 1, within=CLAIM + BACK_WITHIN)


def test_a_deleted_campaign_or_cadence_has_no_more_steps(resilience: Resilience) -> None:
    of_campaign, of_cadence = numbers = [start_cadence(resilience) for _ in range(2)]
    for number in numbers:
        wait_for_steps(resilience, number, 1)
    body = resilience.service.get(f"/api/campaigns/{of_cadence}/cadence").json()
    assert body == {"every_seconds": EVERY, "repeat": REPEAT}, f"a cadence is read as {body}"
    of_later = start_cadence(resilience, every=3600.0)
    paths = [f"/api/campaigns/{number}" for number in (of_campaign, of_later)] + [
        f"/api/campaigns/{of_cadence}/cadence"
    ]
    assert [resilience.service.delete(path).status_code for path in paths] == [204] * 3
    for number in (*numbers, of_later):
        for method in ("GET", "DELETE"):
            status = resilience.service.request(method, f"/api/campaigns/{number}/cadence").status_code
            assert status == 404, (
                f"{method} of the cadence of a deleted campaign, or of a deleted cadence, gets {status}"
            )
    jobs = {number: existing_jobs(resilience, number) for number in numbers}
    time.sleep(5 * EVERY)  # for steps that must not come
    for number, kind in zip(numbers, ("campaign", "cadence"), strict=True):
        late = existing_jobs(resilience, number) - jobs[number]
        assert late <= 1, f"a deleted {kind} has {late} more steps: one may have been under way"


def test_steps_go_on_counting_when_a_cadence_is_replaced_or_deleted(resilience: Resilience) -> None:
    """Each cadence here but the first is over after its steps."""
    hour, short = 3600.0, 0.1  # seconds
    later = start_cadence(resilience, every=hour)
    number = start_cadence(resilience, every=hour)
    path = f"/api/campaigns/{number}/cadence"
    count = 0
    for repeat, replaces in ((2, "a cadence of an hour"), (1, "a cadence that is over"), (1, "a deleted cadence")):
        reply = resilience.service.put(path, json={"every_seconds": short, "repeat": repeat})
        assert reply.status_code == 200, f"PUT of a cadence gets {reply.status_code}"
        count += repeat
        message = f"a cadence of {short} s replaces {replaces}, and its steps up to {count} are not delivered"
        eventually_or_fail(
            lambda count=count: len(steps(resilience, number)) >= count, within=BACK_WITHIN, message=message
        )
        message = f"a cadence with repeat {repeat} replaces {replaces}, and does not end after its last step"
        wait_for_row(resilience, OVER, number, within=BACK_WITHIN, message=message)
        jobs = existing_jobs(resilience, number)
        assert jobs == count, (
            f"a cadence with repeat {repeat} replaces {replaces}, and there are {jobs} steps, not {count}"
        )
        assert resilience.service.get(path).status_code == 200, "a cadence cannot be read after its last step"
        if repeat == 1:
            codes = [resilience.service.delete(path).status_code for _ in range(2)]
            assert codes == [204, 404], f"DELETE of a cadence, and again, gets {codes}"
    reply = resilience.service.put(path, json={"every_seconds": short, "repeat": REPEAT})
    wait_for_steps(resilience, number, count + 1)
    assert resilience.service.put(path, json={"every_seconds": hour, "repeat": REPEAT}).status_code == 200
    jobs = existing_jobs(resilience, number)
    wait_for_steps(resilience, start_cadence(resilience, every=short), 5)
    more = existing_jobs(resilience, number) - jobs
    assert more <= 1, (
        f"a cadence of an hour replaces one of {short} s, which has {more} more steps: one may be under way"
    )
    early = existing_jobs(resilience, later)
    assert early == 0, f"the first step is due one period after the PUT, and a cadence of an hour has {early} jobs"


def test_the_limits_of_a_cadence_are_exact(resilience: Resilience) -> None:
    path = f"/api/campaigns/{create(resilience)['id']}/cadence"
    body: dict[str, object] = {"every_seconds": YEAR, "repeat": 1}
    for field, (allowed, refused) in LIMITS.items():
        for value in (*allowed, *refused):
            expected = 200 if value in allowed and value is not True else 422
            code = resilience.service.put(path, json=body | {field: value}).status_code
            assert code == expected, f"a cadence with {field} {value!r} gets {code}, not {expected}"
    assert resilience.service.delete(path).status_code == 204
    unknown = "/api/campaigns/987654321/cadence"
    codes = [
        resilience.service.put(unknown, json=body).status_code,
        resilience.service.get(unknown).status_code,
        resilience.service.delete(unknown).status_code,
    ]
    assert codes == [404, 404, 404], f"PUT, GET and DELETE of the cadence of an unknown campaign get {codes}, not 404"


def test_without_cadences_the_pool_is_not_used(resilience: Resilience) -> None:
    create(resilience)
    # The monitor of Postgres reads when a step is due.
    last_check = """
        select max(extract(epoch from query_start))::float8 from pg_stat_activity
         where application_name like 'service-monitor:%'"""
    with sql_connection(resilience) as fetch_value:
        eventually(lambda: fetch_value(last_check), within=10.0)
        first = fetch_value(last_check)
        busy = metric(resilience.service, "service_db_pool_busy_seconds_total")
        eventually(lambda: (fetch_value(last_check) or first) > first + 2.0, within=10.0)
    used = metric(resilience.service, "service_db_pool_busy_seconds_total") - busy
    assert used == 0, f"there is no cadence and no request, and the pool was in use for {used:.3f} s"


def test_a_wrong_clock_of_an_instance_does_not_matter(resilience: Resilience, tmp_path: Path) -> None:
    """The clock of Postgres decides, because those of the instances differ."""
    (tmp_path / "sitecustomize.py").write_text("import time\nreal = time.time\ntime.time = lambda: real() + 86_400\n")
    with another_instance(resilience, PYTHONPATH=str(tmp_path)) as instance:
        number = start_cadence(resilience, every=3600, client=instance.client)
        soon = start_cadence(resilience, client=instance.client)
        wait_for_steps(resilience, soon, 2)
        early = sql(resilience, "select step from cadences where campaign_id = $1", number)[0][0]
    assert early == 0, "a step that is due in an hour is enqueued, and the clock of an instance is a day fast"
