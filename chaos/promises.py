"""The promises of the service about any history of its clients, for generated tests."""

from __future__ import annotations

import itertools
from pathlib import Path

import healthy
from campaigns import Campaigns
from pytest_resilience import History, Operation, Resilience, Schedule
from pytest_resilience.checkers import (
    Verdict,
    bounded_failure,
    bounded_staleness,
    health_tells_the_truth,
    linearizable,
    monotonic_reads,
    no_cached_errors,
    no_cross_talk,
    no_lost_writes,
    no_phantoms,
    no_resurrection,
    read_your_writes,
    recovered,
    unique_ids,
)
from pytest_resilience.operation import PhaseMark, ProbeMark
from unexpected import find_unexpected_lines

BACK_WITHIN = 5.0  # seconds from the last heal until everything is as before
DEATHS = ("service.kill", "service.restart", "service.terminate")  # faults that end the process
SILENT = (
    "postgres.refuse",
    "postgres.kill",
    "postgres.pause",
    "postgres.blackhole",
)  # faults under which no statement succeeds


def schedules_of(folder: str) -> list[Path]:
    """Return the files of the schedules in a folder beside this module, each of which has broken a promise once."""
    return sorted((Path(__file__).parent / folder).glob("*.json"))


def play(
    resilience: Resilience, schedule: Schedule, *, within: float, cache_ttl: float = healthy.DEFAULTS["CACHE_TTL"][0]
) -> None:
    """Play a schedule with clients that write and read campaigns, and assert all promises.

    Args:
        resilience: provides the service.
        schedule: the faults.
        within: seconds in which each operation ends.
        cache_ttl: the service's CACHE_TTL.
    """
    history = resilience.play(schedule, Campaigns())
    check_promises(history, resilience.service.log, cache_ttl)
    history.check(bounded_failure(within=within))


def fresh(history: History, cache_ttl: float) -> History:
    """Return a history without the reads of copies that may be old.

    The service marks some as stale, and promises nothing more about those. A process that ends takes its pending writes along, so
    the older copies of Redis are served until they are CACHE_TTL old.
    """
    deaths = [fault for fault in history.faults if fault.label.partition("(")[0] in DEATHS]

    def may_be_old(each: Operation) -> bool:
        return each.state == "stale" or (
            each.source in {"redis", "memory"}
            and any(
                each.end > death.struck_at and (death.healed_at is None or each.time < death.healed_at + cache_ttl)
                for death in deaths
            )
        )

    return History.of(each for each in history.records if not (isinstance(each, Operation) and may_be_old(each)))


def check_promises(history: History, log: str, cache_ttl: float) -> None:
    """Assert that a history and the log of the service have nothing that the service excludes."""
    history.check(
        no_phantoms(),
        no_cross_talk(),
        no_cached_errors(within=BACK_WITHIN),
        unique_ids(),
        recovered(within=BACK_WITHIN),
        readiness_follows_postgres,
        redis_is_not_stormed,
    )
    # /readyz is about Postgres, which is up while its tables are locked.
    if not any(fault.label.startswith("postgres.hold_locks") for fault in history.faults):
        history.check(health_tells_the_truth())
    fresh(history, cache_ttl).check(
        no_lost_writes(), no_resurrection(), read_your_writes(), monotonic_reads(), bounded_staleness(0), linearizable()
    )
    if not any(fault.label.startswith("service.memory") for fault in history.faults):
        find_unexpected_lines(log)


def readiness_follows_postgres(history: History) -> Verdict:
    """/readyz is 503 soon after Postgres has gone silent, and stays so."""
    limit = healthy.UNREADY_WITHIN + healthy.SLACK
    probes = [mark for mark in history.marks if isinstance(mark, ProbeMark) and mark.name == "ready"]
    for fault in history.faults:
        if fault.label.partition("(")[0] not in SILENT or fault.healed_at is None:
            continue
        for probe in probes:
            if fault.struck_at + limit < probe.time < fault.healed_at and probe.answer["status"] == 200:
                since = probe.time - fault.struck_at
                why = f"/readyz is 200 at {probe.time:.3f} s, {since:.1f} s after {fault.label} struck"
                return Verdict("readiness_follows_postgres", "violated", why)
    return Verdict("readiness_follows_postgres", "ok")


def redis_is_not_stormed(history: History) -> Verdict:
    """The service opens few connections to Redis, also while Redis is down. A prober and a pool come to 25 a second."""
    begins = [mark for mark in history.marks if isinstance(mark, PhaseMark)]
    counts = [mark for mark in history.marks if isinstance(mark, ProbeMark) and mark.name == "upstream"]
    for (phase, count), (_, following) in itertools.pairwise(zip(begins, counts, strict=False)):
        if phase.phase not in {"run", "heal"}:
            continue
        opened = following.answer["redis"]["connections"] - count.answer["redis"]["connections"]
        seconds = following.time - count.time
        if opened > healthy.MAX_CONNECTS_ON_RECOVERY + healthy.MAX_CONNECTS_PER_SECOND * seconds:
            why = f"{opened} connections to Redis were opened within {seconds:.1f} s from {count.time:.3f} s on"
            return Verdict("redis_is_not_stormed", "violated", why)
    return Verdict("redis_is_not_stormed", "ok")
