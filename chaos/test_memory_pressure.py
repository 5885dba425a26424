"""The memory guard acts within 2 s of a shortage, frees memory, and logs true figures. Requests get a 503 at worst."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

import healthy
from instances import FREQUENT_CHECKS, READS_BETWEEN_CHECKS, another_instance
from pytest_resilience import CannotInject, Resilience, eventually, recovers
from workload import (
    NAME,
    concurrently,
    eventually_or_fail,
    metric,
    metrics,
    reading,
    sql,
    timed,
)

FORCED_GC = re.compile(r"\[Memory\] High heap usage: (\d+\.\d\d)%, forcing GC")
FREED = re.compile(r"\[GC\] Freed (-?\d+\.\d\d)MB heap, (-?\d+\.\d\d)MB external, (-?\d+\.\d\d)MB total")
STATS = re.compile(
    r"\[Memory Stats\] RSS: (?P<rss>\d+\.\d\d)MB \| Heap: (?P<used>\d+\.\d\d)/(?P<total>\d+\.\d\d)MB \((?P<share>\d+\.\d\d)%\)"
    r" \| External: (?P<external>\d+\.\d\d)MB( \| Limit: (?P<of>\d+\.\d\d)/(?P<limit>\d+\.\d\d)MB \((?P<percent>\d+\.\d\d)%\))?"
)
MIB = 2**20
LONGEST = 10_000  # characters of a valid message
LARGEST = 4 * LONGEST  # bytes of the largest valid message, so that few campaigns fill the memory
# Emoji take four bytes each. Every message differs from its neighbours.
INSERT = "insert into campaigns (name, message) select $1, repeat(chr(128512 + i % 26), $2) from generate_series(1, $3) i returning id"
SHEDDING = "[Memory] refusing work that is not essential"
METRICS_MAX_AGE = 1.0  # seconds, of the statistics of memory
ENTRY_BYTES = 400  # that the cache counts for an entry beside its body
MEMORY_ALERT = 'alert="memory_high"'
NONE_LEFT = "no memory is left"
TOO_EARLY = "the guard acted before memory was short"


def fill_memory_cache(resilience: Resilience, campaigns: int) -> None:
    """Read campaigns while Redis is down, so that the service keeps them in memory."""
    ids = [row["id"] for row in sql(resilience, INSERT, NAME, LONGEST, campaigns)]
    with resilience.redis.refuse():
        for begin in range(0, len(ids), 25):
            batch = ids[begin : begin + 25]
            replies = concurrently(
                [lambda batch=batch: [resilience.service.get(f"/api/campaigns/{i}") for i in batch][-1]]
            )
            assert not FORCED_GC.search(resilience.service.log), TOO_EARLY
            assert {reply.status for reply in replies} == {200}, f"a read fails although memory is not short: {replies}"


def next_statistics(resilience: Resilience) -> tuple[dict[str, float], float]:
    """Wait for the next line of statistics, and return its figures, and the RSS in MB that the kernel reports at that time."""
    before = len(STATS.findall(resilience.service.log))

    def line() -> dict[str, float] | None:
        lines = list(STATS.finditer(resilience.service.log))
        if len(lines) <= before:
            return None
        return {name: float(value or 0) for name, value in lines[-1].groupdict().items()}

    figures = eventually(line, within=2 * healthy.MEMORY_STATS_INTERVAL + healthy.SLACK)
    return figures, resilience.service.process.memory_info().rss / MIB


def data_and_limit(process: psutil.Process) -> tuple[int, int]:
    """Return how many bytes of its data limit a process uses, and the limit."""
    found = re.search(r"^VmData:\s+(\d+) kB$", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024, process.rlimit(psutil.RLIMIT_DATA)[0]


def assert_rss_is_true(figures: dict[str, float], rss: float) -> None:
    """Assert that the logged RSS is within 3 % of the kernel's."""
    logged = figures["rss"]
    assert abs(logged - rss) < 0.03 * rss, (
        f"the statistics report an RSS of {logged} MB; it is {rss:.2f} MB (2^20 bytes)"
    )


def assert_statistics_are_consistent(figures: dict[str, float]) -> None:
    """Assert that the figures of one line agree with each other."""
    assert figures["used"] <= figures["total"] <= figures["rss"], f"the heap is larger than what contains it: {figures}"
    share = 100 * figures["used"] / figures["total"]
    assert abs(figures["share"] - share) < 0.1, (
        f"the heap's share is {share:.2f} %, not {figures['share']} %: {figures}"
    )
    assert figures["limit"] <= healthy.MEMORY_LIMIT_MB, f"the limit is at most {healthy.MEMORY_LIMIT_MB} MB: {figures}"


def assert_metrics_are_true(resilience: Resilience, figures: dict[str, float], rss: float, campaigns: int) -> None:
    """Assert that the metrics of memory agree with a line of statistics, with the kernel, and with what is cached."""

    def true_values() -> dict[str, float] | None:
        values = metrics(resilience.service)
        return values if abs(values['service_memory_bytes{kind="rss"}'] / MIB - rss) < 0.03 * rss else None

    message = f"the RSS is {rss:.2f} MB, and the metrics report another one for more than {METRICS_MAX_AGE:g} s"
    values = eventually_or_fail(true_values, within=METRICS_MAX_AGE + healthy.SLACK, message=message)
    for kind, name in (("heap", "used"), ("heap_reserved", "total"), ("external", "external")):
        reported, logged = values[f'service_memory_bytes{{kind="{kind}"}}'] / MIB, figures[name]
        assert abs(reported - logged) < 2, f"the metrics report {reported:.2f} MB of {kind}, and the log {logged} MB"
    reported, logged = 100 * values["service_memory_used_ratio"], figures["percent"]
    assert abs(reported - logged) < 5, f"the metrics report {reported:.2f} % of the limit in use, and the log {logged}"
    entries, size = values["service_cache_entries"], values["service_cache_bytes"]
    assert entries == campaigns, f"{campaigns} campaigns are in the memory cache, and the metrics report {entries:g}"
    least = campaigns * (LARGEST + ENTRY_BYTES)
    assert least < size < 1.1 * least, f"the memory cache has at least {least} bytes, and the metrics report {size:g}"


def assert_collections_are_counted(resilience: Resilience) -> None:
    """Assert that the metrics agree with the collections that the log reports, each of which has a line."""
    freed = [float(heap) + float(external) for heap, external, _ in FREED.findall(resilience.service.log)]
    values = metrics(resilience.service)
    count = values["service_gc_collections_total"]
    assert count == len(freed), f"{len(freed)} collections are in the log, and the metrics count {count:g}"
    expected, reported = sum(max(0.0, each) for each in freed), values["service_gc_freed_bytes_total"] / MIB
    assert abs(reported - expected) < 0.02 * len(freed), (
        f"collections freed {expected:.2f} MB of heap and external memory, and the metrics report {reported:.2f} MB"
    )
    seconds = values["service_gc_seconds_total"]
    assert 0 < seconds < healthy.GUARD_MAX_STALL, (
        f"the metrics report that collections blocked requests for {seconds} s"
    )


def wait_for_forced_gc(resilience: Resilience, data: int) -> re.Match[str]:
    """Wait until the guard forces a collection, and assert that it logs the true share of the limit.

    Args:
        resilience: the fixture of the test.
        data: the bytes in use just before the limit was lowered; the guard may act before the first sample here.
    """
    process = resilience.service.process
    limit = data_and_limit(process)[1]
    samples = [data]

    def forced() -> re.Match[str] | None:
        found = FORCED_GC.search(resilience.service.log)
        if found is None:
            samples.append(data_and_limit(process)[0])  # grows a little while the service answers requests
        return found

    message = f"memory is short, and after {healthy.GUARD_WITHIN:g} s the guard has not forced a collection"
    found: re.Match[str] = eventually_or_fail(forced, within=healthy.GUARD_WITHIN, message=message)
    logged, least, most = float(found[1]), 100 * min(samples) / limit, 100 * max(samples) / limit
    assert logged > 90, f"the guard acts above 90 %, and logs {logged} %"
    assert least - 2 < logged < most + 2, (
        f"{least:.1f} to {most:.1f} % of the limit were used, and the guard logs {logged}"
    )
    return found


def test_the_guard_forces_a_collection_that_frees_memory_and_logs_true_figures(resilience: Resilience) -> None:
    campaigns = 250
    metrics(resilience.service)  # imports a library, which takes memory
    empty, rss = next_statistics(resilience)
    assert not FORCED_GC.search(resilience.service.log), TOO_EARLY
    assert_rss_is_true(empty, rss)
    assert_statistics_are_consistent(empty)

    fill_memory_cache(resilience, campaigns)
    full, rss = next_statistics(resilience)
    assert not FORCED_GC.search(resilience.service.log), TOO_EARLY
    assert_rss_is_true(full, rss)
    grown, cached = full["external"] - empty["external"], campaigns * LARGEST / MIB
    assert 0.9 * cached < grown < 1.25 * cached, f"{cached:.1f} MB are cached, and External grew by {grown:.1f} MB"
    assert_metrics_are_true(resilience, full, rss, campaigns)

    process = resilience.service.process
    before, data = process.memory_info().rss / MIB, data_and_limit(process)[0]
    with reading(resilience, "/health") as replies, resilience.service.memory_pressure(headroom_mb=4):
        found = wait_for_forced_gc(resilience, data)
        freed = eventually(lambda: FREED.search(resilience.service.log, found.end()), within=healthy.GUARD_WITHIN)
        figures, _ = next_statistics(resilience)
        after = process.memory_info().rss / MIB
        assert after < before - cached / 4, f"memory is not freed: RSS was {before:.1f} MB, and is {after:.1f} MB"
        heap, external, total = (float(number) for number in freed.groups())
        assert abs(total - (before - after)) < 2, (
            f"the log reports {total} MB freed in total; RSS fell by {before - after:.1f} MB"
        )
        evicted = full["external"] - figures["external"]
        assert abs(external - evicted) < 2, (
            f"the log reports {external} MB external freed, and there are {evicted:.1f} MB less"
        )
        assert evicted > healthy.MIN_CACHE_SHARE_FREED * cached, (
            f"memory is not freed: the guard evicts only {evicted:.1f} of {cached:.1f} MB in the cache"
        )
        assert evicted < healthy.MAX_CACHE_SHARE_FREED * cached, (
            f"the guard evicts {evicted:.1f} of {cached:.1f} MB in the cache, which is all there is while Redis is down"
        )
        assert abs(heap) < 10, f"the log reports {heap} MB freed of a heap of {full['used']} MB"
        if figures["limit"]:
            limit = data_and_limit(process)[1] / MIB
            assert abs(figures["limit"] - limit) < 1, f"the limit is now {limit:.1f} MB: {figures}"
            reported = metric(resilience.service, "service_memory_limit_bytes") / MIB
            assert abs(reported - limit) < 1, (
                f"the limit is now {limit:.1f} MB, and the metrics report a limit of {reported:.1f}"
            )
        assert_collections_are_counted(resilience)
        assert resilience.service.get("/livez").status_code == 200
        # The freed memory can be used again: the service serves although the limit has not moved.
        recovers(lambda: resilience.service.get("/api/campaigns?limit=1").status_code == 200, within=5.0)

    slowest = max(each.seconds for each in replies)
    assert slowest < healthy.GUARD_MAX_STALL, f"the guard delayed all requests for {slowest:.2f} s"
    lines = resilience.service.log.count("forcing GC")
    assert lines == 1, f"one line for one episode, not {lines}"
    recovers(lambda: resilience.service.get("/api/campaigns?limit=1").status_code == 200, within=5.0)


def test_load_is_shed_near_the_memory_limit_and_logged_once_and_essential_routes_are_served(
    resilience: Resilience,
) -> None:
    def refused() -> bool:
        reply = resilience.service.post("/api/campaigns", json={"name": "n", "message": "m"})
        return reply.status_code == 503 and "Retry-After" in reply.headers

    with resilience.service.memory_pressure(headroom_mb=0.5):
        message = "more than 95 % of the limit is in use, and load is not shed"
        eventually_or_fail(refused, within=healthy.GUARD_WITHIN, message=message)
        ready = resilience.service.get("/readyz")
        assert ready.status_code == 503, (
            f"load is shed for lack of memory, and /readyz claims to be ready: {ready.text}"
        )
        assert ready.json()["checks"]["memory"] == "refusing", ready.text
        for path in ("/health", "/livez", "/metrics", "/api/db-cleanup"):
            reply = resilience.service.get(path)
            assert reply.status_code == 200, (
                f"{path} is needed most when memory is short, and gets {reply.status_code}: {reply.text}"
            )
        values = metrics(resilience.service)
        assert values["service_memory_refusing"] == 1, "load is shed, and the metrics do not report that"
        active = values[f"service_alert_active{{{MEMORY_ALERT}}}"]
        assert active == 1, f"memory is short, and the metrics report its alert as {active:g}"
        before = len(STATS.findall(resilience.service.log))
        # Memory is checked as often as statistics are logged.
        eventually(lambda: len(STATS.findall(resilience.service.log)) >= before + 3, within=5.0)
        lines = resilience.service.log.count("forcing GC")
        assert lines == 1, f"one line for one episode, not {lines}"
    recovers(lambda: not refused() and resilience.service.get("/readyz").status_code == 200, within=5.0)
    values = metrics(resilience.service)
    refusing, active = values["service_memory_refusing"], values[f"service_alert_active{{{MEMORY_ALERT}}}"]
    assert refusing == 0, "work is served again, and the metrics report that it is refused"
    assert active == 1 or "usage is back to normal" in resilience.service.log, (
        "work is served again, the episode is not over, and the metrics report its alert as over"
    )
    times = []
    for event in ("work is served again", "usage is back to normal"):
        line = re.compile(rf"(\S+) INFO service\.memory \[Memory\] RESOLVED: {event}: (\d+\.\d\d)%")
        message = f"memory is free again, and no line of the log reports that {event}"
        value = eventually_or_fail(lambda line=line: line.search(resilience.service.log), within=5.0, message=message)
        assert float(value[2]) < 93, f"the log reports that {event} at {value[2]} %, not below 93"
        times.append(datetime.fromisoformat(value[1]).timestamp())
        count = len(line.findall(resilience.service.log))
        assert count == 1, f"one line for the end of one episode, not {count}"
    calm, checks = times[1] - times[0], healthy.DEFAULTS["MEMORY_CHECK_INTERVAL"][0]
    # The first of three calm checks serves work again, and the third ends the episode. A busy machine may delay the first.
    assert calm > checks, (
        f"the episode was over {calm:.1f} s after its first calm check, and takes three, {checks:g} s apart"
    )
    values = metrics(resilience.service)
    active, raised = (values[f"service_{name}{{{MEMORY_ALERT}}}"] for name in ("alert_active", "alerts_raised_total"))
    assert (active, raised) == (0, 1), (
        f"one episode is over, and the metrics report its alert as {active:g}, {raised:g} episodes so far"
    )


def test_readyz_names_memory_when_load_is_shed_from_the_start(resilience: Resilience) -> None:
    """The status "starting" would make operators wait, although waiting does not help."""
    with another_instance(resilience, ready=False, MEMORY_LIMIT_MB="10", MEMORY_CHECK_INTERVAL="0.05") as instance:

        def readiness() -> dict[str, Any]:
            body: dict[str, Any] = instance.client.get("/readyz").json()
            return body

        # A request before the first check of memory would find the service ready, which ends its start.
        message = "the limit is below what the service needs, and load is not shed"
        eventually_or_fail(lambda: SHEDDING in instance.log, within=healthy.GUARD_WITHIN, message=message)
        memory = readiness()["checks"]["memory"]
        assert memory == "refusing", f"load is shed for lack of memory, and /readyz reports memory as {memory}"
        message = "Postgres is up, and /readyz does not report that"
        eventually_or_fail(lambda: readiness()["checks"]["postgres"] == "up", within=5.0, message=message)
        body = readiness()
        assert body["status"] == "unavailable", f"load is shed for lack of memory, and /readyz reports {body}"


def test_failed_allocations_are_503_and_the_process_survives(resilience: Resilience) -> None:
    """With little or no headroom an allocation may fail anywhere. Such a request is a 503."""
    pid = resilience.service.process.pid
    huge = b'{"name": "huge", "message": "' + b"x" * 900_000 + b'"}'
    big = {"name": "big", "message": "x" * LONGEST}
    shortages = (3, 2, 0)  # MB of headroom
    for headroom in shortages:
        with resilience.service.memory_pressure(headroom_mb=headroom):
            # All at once, before the guard's next check; then one by one, while the guard acts.
            replies = concurrently([lambda: resilience.service.post("/api/campaigns", content=huge)] * 24)
            replies += [timed(lambda: resilience.service.post("/api/campaigns", json=big)) for _ in range(10)]
            statuses = {reply.status for reply in replies}
            # None: without memory to read a request the connection is closed. 422: there was enough memory.
            unexpected = statuses - {201, 422, 503, None}
            assert not unexpected, f"a lack of memory is 503, never {unexpected}"
            assert resilience.service.process.is_running(), "the process did not survive a lack of memory"
            message = "memory is short, and not even /livez is answered"
            eventually_or_fail(lambda: resilience.service.get("/livez").status_code == 200, within=5.0, message=message)
        recovers(
            lambda: resilience.service.post("/api/campaigns", json={"name": "n", "message": "m"}).status_code == 201,
            within=5.0,
        )
    assert resilience.service.process.pid == pid, "the process did not survive"
    lines = re.findall(f"{NONE_LEFT} .*", resilience.service.log)
    assert 1 <= len(lines) <= len(shortages), (
        f"in {len(shortages)} shortages requests found no memory, and the log has {len(lines)} lines, not one for each episode"
    )


def test_the_guard_obeys_the_memory_limit_of_its_cgroup(resilience: Resilience) -> None:
    """No allocation fails at a container's limit, because the kernel kills the process there."""
    campaigns, limit = 375, 12
    ids = [row["id"] for row in sql(resilience, INSERT, NAME, LONGEST, campaigns)]
    with another_instance(resilience, CACHE_MAX_MB="256", **FREQUENT_CHECKS) as instance:
        metrics(instance.client)  # imports 2 MB that would be imported 5 s after the start
        try:
            pressure = resilience.process(instance.process.pid).memory_limit(headroom_mb=limit)
        except CannotInject as error:
            pytest.skip(str(error))
        with pressure, resilience.redis.refuse():
            for i in ids:
                assert not instance.has_exited(), (
                    f"the kernel killed the service at its cgroup's limit of {limit} MB more, and the guard had not acted"
                )
                status = timed(lambda i=i: instance.client.get(f"/api/campaigns/{i}")).status
                assert status in (200, 503, None), f"memory is short, and a read gets {status}, not 200 or 503"
                if i % READS_BETWEEN_CHECKS == 0:
                    instance.wait_for_guard()
            assert FORCED_GC.search(instance.log), (
                f"{campaigns * LARGEST / MIB:.0f} MB were read, and no collection was forced"
            )
        recovers(lambda: instance.client.get(f"/api/campaigns/{ids[-1]}").status_code == 200, within=5.0)


def test_garbage_is_collected_every_gc_interval(resilience: Resilience) -> None:
    campaign = {"name": "n", "message": "m" * LONGEST}
    settings = {"GC_INTERVAL": "0.5", "MEMORY_CHECK_INTERVAL": "0.1", "MEMORY_STATS_INTERVAL": "3600"}
    with another_instance(resilience, **settings) as instance:
        for _ in range(100):
            assert instance.client.post("/api/campaigns", json=campaign).status_code == 201
        message = "GC_INTERVAL has passed, and no garbage is collected"
        eventually_or_fail(lambda: FREED.search(instance.log), within=0.5 + 2 * healthy.SLACK, message=message)
        lines = len(STATS.findall(instance.log))
        assert not lines, f"MEMORY_STATS_INTERVAL is an hour, and the log has {lines} lines of statistics"
