"""Schedules play on a real service, Postgres and Redis, with workloads of all three kinds."""

from __future__ import annotations

import pytest

SERVICE = '''
"""Notes in memory, with a copy of each in Redis, over HTTP. A read is answered from Redis, or from memory without it."""
import http.server, itertools, json, os, socketserver, sys, threading
import redis

CACHE = redis.Redis.from_url(os.environ["REDIS_URL"], socket_timeout=0.3, socket_connect_timeout=0.3, retry=None)
NOTES, IDS, LOCK = {}, itertools.count(1), threading.Lock()

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, value=None, **headers):
        body = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    @property
    def note_id(self):
        return int(self.path.rpartition("/")[2])

    def cache(self, note):
        try:
            CACHE.set(f"note:{note['id']}", json.dumps(note))
        except redis.RedisError:
            pass

    def do_GET(self):
        if self.path == "/readyz":
            return self.answer(200)
        path, _, after = self.path.partition("?after=")
        if path == "/notes":
            with LOCK:
                notes = [note for note in NOTES.values() if note["id"] > int(after or 0)]
            return self.answer(200, {"items": notes[:2], "next": notes[1]["id"] if len(notes) > 2 else None})
        note = NOTES.get(self.note_id)
        if note is None:
            return self.answer(404)
        try:
            CACHE.get(f"note:{note['id']}")
            source = "redis"
        except redis.RedisError:
            source = "memory"
        self.answer(200, note, ETag=f'"{note["version"]}"', X_Cache_Source=source)

    def do_POST(self):
        with LOCK:
            note = {"id": next(IDS), "version": 1, **self.body()}
            NOTES[note["id"]] = note
        self.cache(note)
        self.answer(201, note)

    def do_PUT(self):
        change = self.body()
        with LOCK:
            note = NOTES.get(self.note_id)
            if note is None:
                return self.answer(404)
            if self.headers.get("If-Match", f'"{note["version"]}"') != f'"{note["version"]}"':
                return self.answer(412)
            note = NOTES[note["id"]] = {**note, **change, "version": note["version"] + 1}
        self.cache(note)
        self.answer(200, note)

    def do_DELETE(self):
        with LOCK:
            self.answer(204 if NOTES.pop(self.note_id, None) else 404)

    def log_message(self, *arguments):
        pass

class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True

Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
'''

CONFTEST = """
import sys
import pytest
from pytest_resilience import Service
from pytest_resilience.workloads import HttpResource

@pytest.fixture(scope="session")
def resilience_service(resilience_stack):
    return Service([sys.executable, "notes_service.py"], ready="/readyz", env={"REDIS_URL": resilience_stack.redis.url})

@pytest.fixture
def notes():
    return HttpResource("/notes", create={"text": "{value}"})
"""

IMPORTS = """
import asyncio, itertools, threading, pytest
from pytest_resilience import NoService, ScheduleError, SetupError
from pytest_resilience.operation import FaultMark, ProbeMark, SkipMark
from pytest_resilience.schedule import Episode, Schedule, Step, connections, end, operations, seconds, touched
from pytest_resilience.workloads import HttpResource, PostgresRegisters, RedisRegisters

def marks(history, kind, **fields):
    return [m for m in history.marks if isinstance(m, kind) and all(getattr(m, f) == v for f, v in fields.items())]
"""


@pytest.fixture
def service(project: pytest.Pytester) -> pytest.Pytester:
    """A project with the service above."""
    project.makepyfile(notes_service=SERVICE)
    project.makeconftest(CONFTEST)
    return project


def test_a_schedule_plays_on_a_service(service: pytest.Pytester) -> None:
    service.makepyfile(
        IMPORTS
        + """
def test_it(resilience, notes):
    first = Episode([Step("redis.refuse", at=operations(2), until=operations(6))], operations=12)
    second = Episode([Step("redis.reset", at=operations(1)), Step("redis.latency", {"seconds": 0.01}, until=end())])
    history = resilience.play(Schedule([first, second]), notes)
    assert history is resilience.history

    work = [o for o in history.operations if o.phase == "run"]
    assert len(work) == 24 and {o.client for o in work if o.episode == 2} == {o.client for o in work if o.episode == 1}
    assert len({o.client for o in work}) == 3
    strike, heal = marks(history, FaultMark, label="redis.refuse")
    begun = [o for o in work if o.episode == 1]
    assert [o.time < strike.time for o in begun] == [True] * 2 + [False] * 10
    assert [o.time < heal.time for o in begun] == [True] * 8 + [False] * 4
    assert "memory" in {o.source for o in begun if o.f == "read"}

    reset, reset_heal = marks(history, FaultMark, label="redis.reset")
    assert reset_heal.touched >= 1 and reset_heal.episode == 2
    assert [m.answer["recovered"] for m in marks(history, ProbeMark, name="recovery")] == [True, True]
    assert {m.answer["status"] for m in marks(history, ProbeMark, name="ready")} == {200}
    upstream = [m.answer["redis"] for m in marks(history, ProbeMark, name="upstream")]
    assert all(a["connections"] <= b["connections"] for a, b in itertools.pairwise(upstream))
    assert upstream[1]["commands"] > 0
    (baseline,) = marks(history, ProbeMark, name="baseline")
    assert baseline.answer["read"]["sources"] == ["redis"]

    lists = [o for o in history.operations if o.f == "list"]
    assert all(o.type == "ok" and isinstance(o.value, dict) for o in lists)
    assert any(len(o.value) > 2 for o in lists), "all pages"
    values = [o.value for o in history.operations if o.f in ("create", "update")]
    assert len(set(values)) == len(values)
    last = {o.key: o for o in history.operations if o.episode == 2 and o.phase == "recovery" and o.f == "read"}
    assert set(last) >= {o.key for o in history.operations if o.f == "create"}, "each resource is read at last"
"""
    )
    result = service.runpytest_inprocess("-q", "-n0", "--resilience-leaks=error")
    result.assert_outcomes(passed=1)


def test_a_second_play_begins_clean_and_knows_the_baseline(service: pytest.Pytester) -> None:
    service.makepyfile(
        IMPORTS
        + """
def test_it(resilience, notes):
    schedule = Schedule([Episode([Step("redis.refuse")], operations=4)])
    pid = resilience.service.process.pid
    first = resilience.play(schedule, notes, clients=1)
    again = HttpResource("/notes", create={"text": "{value}"})
    second = resilience.play(schedule, again, clients=1)
    assert resilience.service.process.pid != pid
    assert resilience.history is second is not first
    assert len([o for o in first.operations if o.phase == "baseline"]) > 100 > 20 > len(
        [o for o in second.operations if o.phase == "baseline"]
    )
    assert [o.key for o in second.operations if o.f == "create"][0] == "1", "an empty service"
    assert [(o.f, o.key) for o in first.operations if o.phase == "run"][:3] == [
        (o.f, o.key) for o in second.operations if o.phase == "run"][:3]
    assert marks(first, ProbeMark, name="baseline")[0].answer == marks(second, ProbeMark, name="baseline")[0].answer
    assert [strike.label for strike in resilience.strikes] == ["redis.refuse"] * 2

def test_examples(resilience, notes):
    for number in range(2):
        resilience.begin_example()
        assert resilience.strikes == [] and resilience.history.operations == []
        resilience.redis.oom()
        with pytest.raises(Exception), resilience.redis.refuse():
            episode = Episode([Step("redis.latency", {"seconds": 0.001}, until=end())], operations=3)
            resilience.play(Schedule([episode, episode]), notes)
            raise OSError
        from pytest_resilience.history import current
        assert current() is resilience.history and resilience.history.operations
        resilience.end_example()
    tally = resilience.tally
    assert {name: count.struck for name, count in tally.items()} == {"redis.oom": 2, "redis.refuse": 2, "redis.latency": 4}
    assert {name: (count.drawn, count.schedules) for name, count in tally.items()} == {
        "redis.oom": (0, 0), "redis.refuse": (0, 0), "redis.latency": (4, 2)}
    assert tally["redis.refuse"].hit == 2
    assert resilience.strikes == []
"""
    )
    result = service.runpytest_inprocess("-q", "-n0", "--resilience-leaks=error")
    result.assert_outcomes(passed=2)


def test_steps_that_are_not_possible_are_recorded_and_overlaps_heal(service: pytest.Pytester) -> None:
    service.makepyfile(
        IMPORTS
        + """
def test_it(resilience, notes):
    history = resilience.play(Schedule([Episode([
        Step("service.kill", at=operations(1), until=operations(3)),
        Step("service.pause", at=operations(2), until=end()),
        Step("redis.readonly", at=operations(4), until=operations(2)),
        Step("redis.pause", at=operations(5), until=operations(3)),
        Step("client.cancel", at=operations(6)),
        Step("redis.refuse", at=operations(50)),
        Step("postgres.latency", {"seconds": 0.1}, at=connections(1000)),
    ], operations=12)]), notes)
    skips = {m.label: m for m in marks(history, SkipMark, action="strike")}
    assert skips.keys() == {"service.pause", "client.cancel", "redis.refuse", "postgres.latency"}
    assert "not running" in skips["service.pause"].reason
    assert skips["redis.refuse"].reason == "the work ended before operations(50)"
    assert [(fault.label, fault.healed_at is not None) for fault in history.faults] == [
        ("service.kill", True), ("redis.readonly", True), ("redis.pause", True)]
    assert all(strike.healed for strike in resilience.strikes)
    errors = {(o.f in ("read", "list"), o.type, o.error) for o in history.operations if o.phase == "run" and o.error}
    assert (True, "fail", "ConnectError") in errors
    assert not {e for e in errors if e[0] and e[1] == "info"}, "a read without an answer has failed"
"""
    )
    result = service.runpytest_inprocess("-q", "-n0", "--resilience-leaks=error")
    assert result.ret == 0, "passed, or vacuous: no operation may have met the read-only Redis"


def test_clients_that_a_paused_service_blocks_end(service: pytest.Pytester) -> None:
    service.makepyfile(
        IMPORTS
        + """
from pytest_resilience.runner import player
player.WORK_LIMIT = 3.0  # seconds: enough for three operations, and for a request of the readiness path that ends in vain

def test_it(resilience):
    notes = HttpResource("/notes", create={"text": "{value}"}, timeout=30)
    history = resilience.play(Schedule([Episode([Step("service.pause", at=operations(3), until=end())], operations=5)]), notes)
    work = [o for o in history.operations if o.phase == "run"]
    (heal,) = marks(history, FaultMark, mark="heal")
    assert any(o.end > heal.time > o.time for o in work)
    assert {o.error for o in work} <= {None, "412"}, "the heal continues the process, which answers; an update may be late"
    assert {m.answer["status"] for m in marks(history, ProbeMark, name="ready")} == {None, 200}
"""
    )
    result = service.runpytest_inprocess("-q", "-n0", "--resilience-leaks=error")
    result.assert_outcomes(passed=1)


def test_wrong_arguments_are_errors_before_anything_strikes(service: pytest.Pytester) -> None:
    service.makepyfile(
        IMPORTS
        + """
@pytest.mark.parametrize(("steps", "arguments", "error", "text"), [
    ([Step("replica.refuse")], {}, ScheduleError, r"episodes\\[0\\].steps\\[0\\].fault: no target named 'replica'; there are: postgres, redis"),
    ([Step("redis.refuse"), Step("reds.refuse")], {}, ScheduleError, r"steps\\[1\\].fault: .*'redis'"),
    ([], {"clients": 0}, SetupError, "clients is a number of 1 or more"),
    ([], {"recovery": 0}, SetupError, "recovery is seconds above 0"),
    ([], {"workload": object()}, SetupError, "has no kinds"),
    (None, {}, SetupError, "takes a Schedule"),
])
def test_it(resilience, notes, steps, arguments, error, text):
    schedule = Schedule([Episode(steps)]) if steps is not None else "redis.refuse"
    with pytest.raises(error, match=text):
        resilience.play(schedule, arguments.pop("workload", notes), **arguments)
    assert resilience.strikes == []

class TestWithoutService:
    @pytest.fixture(scope="class")
    def resilience_service(self):
        return None

    def test_it(self, resilience, notes):
        with pytest.raises(NoService):
            resilience.play(Schedule([Episode([Step("service.kill")])]), RedisRegisters(print))
        with pytest.raises(NoService):
            resilience.play(Schedule([Episode()]), notes)
"""
    )
    result = service.runpytest_inprocess("-q", "-n0", "--resilience-leaks=error")
    result.assert_outcomes(passed=7)


REGISTERS = """
import asyncpg, redis.asyncio
from pytest_resilience.runner import player

player.WORK_LIMIT = 60.0  # a starved machine must not cut the work short

WORKLOADS = {
    "a pool": lambda: PostgresRegisters(lambda url: asyncpg.create_pool(url, min_size=1, max_size=3, timeout=1)),
    "connections": lambda: PostgresRegisters(lambda url: asyncpg.connect(url, timeout=1)),
    "redis": lambda: RedisRegisters(redis.asyncio.Redis.from_url),
}
def schedule(target):
    return Schedule([
        Episode([Step(f"{target}.refuse", at=operations(3), until=operations(4)), Step("client.cancel", at=operations(10))], 16),
        Episode([Step(f"{target}.latency", {"seconds": 0.05}, until=end()), Step("client.cancel", at=operations(5))], 12),
        Episode([Step(f"{target}.blackhole", at=operations(3), until=seconds(0.2))], 9),
    ])

def check(history, target):
    work = [o for o in history.operations if o.phase == "run"]
    assert len(work) == 16 + 12 + 9
    assert [m.answer["recovered"] for m in marks(history, ProbeMark, name="recovery")] == [True] * 3
    assert {o.type for o in work if o.f in ("read", "list")} <= {"ok", "fail"}
    during = [o for o in work if o.episode == 1 and o.type == "fail"]
    assert during, "a refused connection is known to have sent nothing"
    cancelled = [o for o in work if o.error and o.error.startswith("CancelledError")]
    (mark,) = [m for m in marks(history, FaultMark, label="client.cancel", mark="heal") if m.episode == 2]
    assert mark.touched >= 1
    counted = len([o for o in cancelled if o.episode == 2])
    assert counted == mark.touched or target == "redis" and counted < mark.touched, "redis-py swallows some while it connects"
    assert all(o.type == "info" for o in cancelled if o.f in ("update", "delete"))
    seen = {}
    for o in history.operations:
        if o.f == "read" and o.type == "ok" and o.phase == "recovery":
            seen[o.key] = o.value
    writes = {o.value for o in history.operations if o.f == "update"}
    assert set(seen.values()) <= writes | {None}
    assert set(seen) == {"0", "1", "2", "3"}
"""


def test_registers_play_in_a_loop_of_their_own(project: pytest.Pytester) -> None:
    project.makepyfile(
        IMPORTS
        + REGISTERS
        + """
@pytest.mark.parametrize("name", WORKLOADS)
def test_it(resilience, name):
    target = "redis" if name == "redis" else "postgres"
    check(resilience.play(schedule(target), WORKLOADS[name]()), target)
"""
    )
    result = project.runpytest_inprocess("-q", "-n0", "--resilience-leaks=error")
    result.assert_outcomes(passed=3)


def test_registers_play_in_the_loop_of_an_async_test(project: pytest.Pytester) -> None:
    project.makepyfile(
        IMPORTS
        + REGISTERS
        + """
@pytest.mark.asyncio
@pytest.mark.parametrize("name", WORKLOADS)
async def test_it(resilience, name):
    target = "redis" if name == "redis" else "postgres"
    check(await resilience.play_async(schedule(target), WORKLOADS[name]()), target)

@pytest.mark.asyncio
async def test_a_synchronous_play_blocks(resilience):
    history = resilience.play(Schedule([Episode([Step("redis.refuse", until=end())], 6)]), WORKLOADS["redis"]())
    assert len([o for o in history.operations if o.phase == "run"]) == 6

@pytest.mark.asyncio
async def test_play_async_takes_asynchronous_workloads(resilience):
    with pytest.raises(SetupError, match="use play"):
        await resilience.play_async(Schedule([Episode()]), HttpResource("/notes", create={"text": "{value}"}))

@pytest.mark.asyncio
async def test_counters(resilience):
    workload = RedisRegisters(redis.asyncio.Redis.from_url, kinds=("add", "read"), keys=1)
    history = await resilience.play_async(Schedule([Episode([Step("redis.latency", {"seconds": 0.01}, until=end())], 12)]), workload)
    added = [o for o in history.operations if o.f == "add" and o.key == "0"]
    assert added and all(o.value == 1 for o in added)
    last = [o for o in history.operations if o.f == "read" and o.key == "0"][-1]
    assert last.value == len(added)
"""
    )
    result = project.runpytest_inprocess("-q", "-n0", "--resilience-leaks=error")
    result.assert_outcomes(passed=6)
