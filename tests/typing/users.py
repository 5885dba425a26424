"""The public API as users write it, type-checked by scripts/lint and never run.

An unneeded ignore is an error under mypy strict, so each ignore here proves that mypy reports a mistake.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, assert_type

import asyncpg
import httpx
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, precondition, rule
from redis.asyncio import Redis

from pytest_resilience import (
    Answer,
    CannotInject,
    Episode,
    History,
    HttpStub,
    Leak,
    MysqlTarget,
    NeverHappened,
    Operation,
    PostgresTarget,
    ProcessEnded,
    RabbitmqTarget,
    Receipt,
    RedisTarget,
    Resilience,
    ResilienceError,
    Schedule,
    Service,
    ServiceStart,
    ServiceTarget,
    SetupError,
    Stack,
    Step,
    Strike,
    StubRequest,
    TcpTarget,
    eventually,
    factories,
    incidents,
    recovers,
)
from pytest_resilience.checkers import (
    Checker,
    Verdict,
    bank,
    bounded_failure,
    bounded_staleness,
    counter,
    health_tells_the_truth,
    jobs_run,
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
from pytest_resilience.history import Client
from pytest_resilience.machine import Operate, Program, ResilienceMachine, Struck
from pytest_resilience.schedule import after_heal, connections, end, operations, seconds, touched
from pytest_resilience.strategies import schedules, steps
from pytest_resilience.workloads import HttpResource, PostgresRegisters, RedisRegisters


@pytest.fixture(scope="session")
def resilience_service(resilience_stack: Stack) -> Service:
    assert_type(resilience_stack.backend, str)
    assert_type(resilience_stack.seed, int)
    return Service(
        [sys.executable, "-m", "shop"],
        port_variable="PORT",
        ready="/readyz",
        within=10.0,
        env={"DATABASE_URL": resilience_stack.postgres.url, "REDIS_URL": resilience_stack.redis.url},
    )


def a_test_in_ten_lines(resilience: Resilience) -> None:
    with resilience.redis.refuse() as strike:
        reply = resilience.service.get("/campaigns/1")
        assert_type(reply, httpx.Response)
        assert reply.status_code == 200
    assert_type(strike, Strike)
    assert_type(strike.receipt, Receipt)
    assert_type(strike.receipt.touched, int | None)
    assert_type(strike.receipt.unit, str)
    assert_type(strike.receipt.first, float | None)
    assert_type(strike.label, str)
    strike.heal()
    assert_type(resilience.strikes, list[Strike])


def every_fault(resilience: Resilience) -> list[Strike]:
    return [
        resilience.redis.refuse(),
        resilience.redis.reset(),
        resilience.redis.blackhole(),
        resilience.redis.blackhole(direction="down"),
        resilience.postgres.latency(0.2, jitter=0.05),
        resilience.postgres.latency(seconds=0.2),
        resilience.postgres.bandwidth(10_000),
        resilience.postgres.bandwidth(bytes_per_s=10_000),
        resilience.redis.slow_close(0.5),
        resilience.redis.slicer(average_bytes=16, variation_bytes=4, delay=0.001),
        resilience.redis.limit_data(bytes=1000),
        resilience.redis.flap(),
        resilience.postgres.on("commit").lose_answer(),
        resilience.postgres.on("update", matching="campaigns", nth=2).error("40001"),
        resilience.postgres.on("insert").first(1).hang(),
        resilience.postgres.on("connect").fatal("57P01", message="going down"),
        resilience.postgres.on("select", application_name="service:*").cut_answer(rows=2),
        resilience.postgres.on("select").every(2).after(1).per_connection().delay(0.1),
        resilience.redis.on("get", key="campaign:*").first(3).error("LOADING"),
        resilience.redis.on("evalsha", client_name="worker:*").lose_answer(close="silence"),
        resilience.redis.on("get", nth=2).cut_answer(bytes=10),
        resilience.redis.on("connect").fatal("ERR max number of clients reached"),
        resilience.redis.on("set").reset(),
        resilience.redis.after("exec", n=2).refuse(),
        resilience.redis.after("get", key="a*").oom(),
        resilience.postgres.after("commit", matching="orders").latency(0.1),
        resilience.postgres.commit_in_doubt(),
        resilience.postgres.serialization_failure(nth=2),
        resilience.postgres.deadlock(nth=2, matching="orders"),
        resilience.redis.loading_replies(commands=3),
        resilience.redis.flap(down=2, up=3, unit="connections"),
        resilience.postgres.half_open(),
        resilience.postgres.slow_accept(seconds=0.5),
        resilience.postgres.kill(),
        resilience.redis.pause(),
        resilience.redis.restart(),
        resilience.postgres.starve(connections=2),
        resilience.postgres.starve(lock="campaigns"),
        resilience.service.kill(),
        resilience.service.terminate(),
        resilience.service.pause(),
        resilience.service.restart(),
        resilience.service.memory_pressure(headroom_mb=64),
        resilience.service.exhaust_descriptors(left=2),
        resilience.service.starve_cpu(share=0.25),
        resilience.postgres.take_connections(left=3),
        resilience.postgres.hold_locks(),
        resilience.postgres.hold_locks("campaigns", "jobs"),
        resilience.postgres.slow_queries(0.2, "campaigns"),
        resilience.redis.readonly(stale=False),
        resilience.redis.restart("kept"),
        resilience.redis.loading(),
        resilience.redis.busy_script(),
        resilience.process(4711).pause(),
    ]


replica = factories.postgres("replica", init=[Path("schema.sql"), "analyze", print])
sessions = factories.redis("sessions")
mysql = factories.mysql("mysql", init=["create table a (id int)", Path("schema.sql")])
mariadb = factories.mariadb("mariadb", image="mariadb:10.11")
rabbitmq = factories.rabbitmq("rabbitmq")
payments = factories.tcp("payments", upstream="127.0.0.1:9000")
cached = factories.tcp("cached", Service(["memcached", "-p", "{port}"], ready="{port}"))
to_worker = factories.tcp("to_worker", lambda stack: Service(["worker"], env={"REDIS_URL": stack.redis.url}))
worker = factories.service(
    "worker",
    lambda stack: Service(
        [sys.executable, "-m", "shop.worker", "--metrics={metrics}"],
        port_variable=None,
        ready=re.compile("ready"),
        ports=("http", "metrics"),
        env={"REDIS_URL": stack.redis.url},
        restart="struck",
        after=("service",),
        setup=[["alembic", "upgrade", "head"]],
        timeout=None,
    ),
)


def is_ready(start: ServiceStart) -> bool:
    assert_type(start.ports["http"], int)
    return "connected" in start.log and start.port > 0 and start.url.startswith("http")


def each_form_of_ready() -> None:
    for ready in (
        "/readyz",
        "http://127.0.0.1:{port}/",
        "{port}",
        8080,
        re.compile("up"),
        is_ready,
        lambda: True,
        None,
    ):
        Service(["shop"], ready=ready)


def several_services(resilience: Resilience) -> None:
    target = resilience.services["worker"]
    with target.kill() as strike:
        assert_type(strike, Strike)
    assert_type(target.ports, dict[str, int])
    assert_type(target.name, str)


def fixtures_of_factories(replica: PostgresTarget, sessions: RedisTarget, worker: ServiceTarget) -> None:
    assert_type(replica.url, str)
    assert_type(sessions.flush(), Strike)
    assert_type(worker.log, str)


def further_servers(resilience: Resilience, stack: Stack) -> None:
    assert_type(resilience.add_postgres("replica").url, str)
    assert_type(resilience.add_redis("sessions").refuse(), Strike)
    assert_type(stack.add_postgres("replica", init="create table t ()").url, str)


@pytest.fixture(scope="session")
def resilience_hosts() -> list[str]:
    return ["api.test"]


def ready_systems(resilience: Resilience, resilience_stack: Stack) -> None:
    shop = resilience_stack.add_mysql("shop", lambda url: url.upper())
    assert_type(shop, MysqlTarget)
    assert_type((shop.url, shop.direct_url, shop.host, shop.port), tuple[str, str, str, int])
    assert_type((shop.user, shop.password, shop.database), tuple[str, str, str])
    assert_type(resilience.add_mysql("shop").starve(connections=1), Strike)
    assert_type(resilience.add_mariadb("other").restart(), Strike)
    shop.take_connections(left=2).heal()
    shop.read_only().heal()
    shop.close_connections()
    shop.flush()  # type: ignore[attr-defined]  # for Redis
    jobs = resilience_stack.add_rabbitmq("jobs", image="rabbitmq:3.13")
    assert_type(jobs, RabbitmqTarget)
    assert_type((jobs.url, jobs.user, jobs.password, jobs.vhost), tuple[str, str, str, str])
    jobs.memory_alarm().heal()
    jobs.disk_alarm().heal()
    jobs.close_connections()
    assert_type(resilience.add_rabbitmq("jobs").queue_full("emails", vhost="shop").receipt, Receipt)
    jobs.queue_full()  # type: ignore[call-arg]  # of which queue?
    jobs.latency(0.2).heal()
    jobs.kill().heal()


def tcp_systems(resilience: Resilience, resilience_stack: Stack) -> None:
    payments = resilience_stack.add_tcp("payments", "http://127.0.0.1:9000/v1")
    assert_type((payments.host, payments.port, payments.url, payments.upstream), tuple[str, int, str, str])
    assert_type(resilience.add_tcp("payments", upstream="127.0.0.1:9000").latency(0.2), Strike)
    payments.kill()  # type: ignore[attr-defined]  # its process belongs to the user
    assert_type(payments, TcpTarget)
    stub = resilience_stack.add_http_stub("stub")
    assert_type(stub, HttpStub)
    stub.answer("/charges", 503, Answer(201, json={"id": 1}, delay=0.5), method="POST")
    stub.answer("/charges", "200")  # type: ignore[arg-type]  # a status or an Answer
    assert_type(stub.requests, list[StubRequest])
    assert_type(stub.requests[0].headers["x"], str)
    assert_type(resilience.add_http_stub("stub").refuse(), Strike)
    resilience_stack.add_tcp("payments", 9000)  # type: ignore[arg-type]  # host and port


def leaks(resilience: Resilience) -> None:
    for leak in resilience.leaks():
        assert_type(leak, Leak)
        assert_type(leak.name, str)
        assert_type(leak.kind, str)
        assert_type(leak.details, str)
    with resilience.no_growth("thread:pool-*", "fd:/tmp/*"):
        pass
    resilience.no_growth(1)  # type: ignore[arg-type]


def incidents_by_name(resilience: Resilience) -> None:
    for phase in incidents.redis_failover(resilience):
        assert_type(phase, str)


async def cancellation(resilience: Resilience) -> None:
    async def work() -> int:
        return 42

    assert_type(await resilience.redis.cancel(work, then=work, heal="during"), int | None)
    done = await resilience.redis.cancel_everywhere(work, then=work, size=2, whole=lambda: True)
    assert_type((done.messages, done.points), tuple[int, tuple[str, ...]])
    await resilience.redis.cancel(work, heal="never")  # type: ignore[arg-type]


async def in_process(resilience: Resilience, asgi: Callable[[Any, Any, Any], Awaitable[None]]) -> None:
    async with resilience.app(asgi, client_gone="disconnect") as app:
        assert_type((await app.get("/")).status_code, int)
        await app.ended(within=2)
    resilience.app(asgi, client_gone="rst")  # type: ignore[call-overload]
    with resilience.app(wsgi) as other:
        assert_type(other.get("/").text, str)
    async with resilience.steady(app.client.is_closed.__bool__) as steady:
        await steady.check()
    with resilience.jobs(enqueue=lambda job: job, ran=list, count=2, workers_may_be_replaced=True) as jobs:
        assert_type(jobs.before, list[float])
    assert_type((await resilience.silence(0.1)).receipt.note, str)
    resilience.when("redis", waits="BLMOVE").wait().release()
    assert_type(resilience.when(resilience.postgres, answer=2).strike("postgres.reset"), Strike)


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    return []


def attributes_of_targets(resilience: Resilience) -> None:
    assert_type(resilience.postgres.url, str)
    assert_type(resilience.postgres.direct_url, str)
    assert_type(resilience.redis.host, str)
    assert_type(resilience.redis.port, int)
    assert_type(resilience.service.url, str)
    assert_type(resilience.service.log, str)
    assert_type(resilience.service.client, httpx.Client)
    assert_type(resilience.service.process, psutil.Process)
    assert_type(resilience.service.request("PATCH", "/", json={"name": "x"}), httpx.Response)


def probes(resilience: Resilience) -> None:
    def healthy() -> bool:
        return resilience.service.get("/readyz").status_code == 200

    assert_type(eventually(healthy, within=5), bool)
    assert_type(recovers(healthy, within=2.0, every=0.05), bool)
    assert_type(eventually(lambda: resilience.service.get("/"), within=1), httpx.Response)


async def probes_in_an_async_test() -> None:
    async def answer() -> int:
        return 42

    assert_type(await eventually(answer, within=5), int)
    assert_type(await recovers(answer, within=5), int)


def mistakes(resilience: Resilience) -> None:
    resilience.postgres.latency("slow")  # type: ignore[arg-type]
    resilience.redis.explode()  # type: ignore[attr-defined]
    resilience.redis.starve(connections=1)  # type: ignore[attr-defined]
    resilience.postgres.memory_pressure(headroom_mb=1)  # type: ignore[attr-defined]
    eventually(lambda: True)  # type: ignore[call-overload]
    eventually(True, within=1)  # type: ignore[call-overload]
    Service("python -m shop", ready=1.5)  # type: ignore[arg-type]
    Service(["shop"], restart="sometimes")  # type: ignore[arg-type]
    factories.service("worker", Service(["shop"]))  # type: ignore[arg-type]


def errors() -> None:
    for error in (SetupError, CannotInject):
        assert issubclass(error, ResilienceError)
    assert issubclass(NeverHappened, AssertionError)
    ended = ProcessEnded("the service", 7, remedy="Start it.", exit_code=1)
    assert_type((ended.pid, ended.exit_code, ended.ago), tuple[int, int | None, float | None])
    assert_type(ended.log, str | None)


@pytest.mark.fault("postgres.latency", seconds=0.2)
async def an_async_test(resilience: Resilience) -> None:
    assert resilience.strikes[0].receipt.touched != 0


def read_price(product: int, *, currency: str = "EUR") -> float:
    return float(product)


async def buy(product: int) -> str:
    return f"order of {product}"


def recorded_functions_keep_their_types(resilience: Resilience, path: Path) -> None:
    history = resilience.history
    read = history.recorded(read_price, f="read", key=lambda product, *, currency="EUR": f"{product} {currency}")
    assert_type(read(7, currency="USD"), float)
    read("7")  # type: ignore[arg-type]
    history.recorded(read_price, f="read", key=7)  # type: ignore[arg-type]
    history.recorded(read_price, f="read", fails=(KeyboardInterrupt,))  # type: ignore[arg-type]
    operation = history.client().invoke("create", value="w1").ok(key="7", version=1)
    assert_type(operation, Operation)
    assert_type(history.operations, list[Operation])
    assert_type(History.load(path), History)
    history.export(path, "edn")


async def recorded_coroutine_functions_stay_ones(resilience: Resilience) -> None:
    order = resilience.history.recorded(buy, f="create", value=lambda product: product, fails=(LookupError, ValueError))
    assert_type(await order(7), str)
    order("seven")  # type: ignore[arg-type, unused-coroutine]


class Prices:
    kinds = ("update", "read")

    def begin(self, resilience: Resilience) -> None: ...

    def kind(self, n: int) -> str:
        return self.kinds[n % 2]

    def perform(self, client: Client, kind: str, n: int) -> None:
        assert_type(client.invoke(kind, key="1").ok(value=n), Operation)

    def read_all(self, client: Client) -> None: ...

    def end(self) -> None: ...


class AsyncPrices(Prices):
    async def perform(self, client: Client, kind: str, n: int) -> None: ...  # type: ignore[override]


async def plays(resilience: Resilience) -> None:
    schedule = Schedule([Episode([Step("redis.refuse", {}, operations(3), touched(1))], operations=12)])
    notes = HttpResource("/notes", create={"text": "{value}"}, change=lambda text: {"text": text})
    for workload in (notes, Prices(), RedisRegisters(Redis.from_url), PostgresRegisters(asyncpg.connect)):
        assert_type(resilience.play(schedule, workload, clients=2, recovery=1.0), History)
    assert_type(await resilience.play_async(schedule, AsyncPrices()), History)
    resilience.play(schedule, object())  # type: ignore[arg-type]
    resilience.play("redis.refuse", notes)  # type: ignore[arg-type]


def schedules_are_plain_data(path: Path) -> Schedule:
    outage = Step("redis.refuse", at=operations(3), until=touched(1))
    slow = Step("postgres.latency", {"seconds": 0.2}, at=seconds(0.5), until=end())
    later = [Step("redis.reset", at=after_heal(operations=2)), Step("redis.pause", at=connections(1))]
    schedule = Schedule([Episode([outage, slow], operations=12), Episode(later)])
    assert_type(schedule.episodes, tuple[Episode, ...])
    assert_type(schedule.episodes[0].operations, int)
    assert_type(schedule.steps, list[Step])
    assert_type(outage.fault, str)
    assert_type(schedule.dumps(), str)
    assert_type(Schedule.loads(schedule.dumps()), Schedule)
    Schedule(outage)  # type: ignore[arg-type]
    Step("redis.refuse", at=3)  # type: ignore[arg-type]
    after_heal(2)  # type: ignore[call-arg]
    return Schedule.load(path)


STRATEGY = schedules("redis", "postgres", faults=["refuse", st.just(Step("redis.reset"))], episodes=2, steps=3)


@given(schedule=STRATEGY)
def a_generated_test(resilience: Resilience, schedule: Schedule) -> None:
    history = resilience.play(schedule, Prices())
    history.check(no_lost_writes(), read_your_writes(), recovered(within=5))


def strategies_draw_schedules_and_steps() -> None:
    assert_type(STRATEGY, st.SearchStrategy[Schedule])
    assert_type(steps("redis", operations=6), st.SearchStrategy[Step])
    schedules("redis", faults=[Step("redis.reset")])  # type: ignore[list-item]
    schedules(["redis"])  # type: ignore[arg-type]
    steps("redis", episodes=2)  # type: ignore[call-arg]


def every_checker(history: History) -> None:
    checkers: list[Checker] = [
        no_lost_writes(),
        no_phantoms(),
        no_cross_talk(),
        no_resurrection(within=1.0),
        no_cached_errors(),
        read_your_writes(),
        monotonic_reads(),
        bounded_staleness(5.0, under_fault=30.0),
        linearizable(budget=10_000),
        unique_ids(),
        counter(),
        bank(100),
        jobs_run(exactly_once=True),
        bounded_failure(within=2.0, amplification=3.0),
        recovered(within=5.0, ratio=2.0),
        health_tells_the_truth(within=2.0),
    ]
    verdicts = history.verdicts(*checkers)
    assert_type(verdicts, list[Verdict])
    assert_type(verdicts[0].why, str)
    assert_type(verdicts[0].witness, tuple[Operation, ...])
    assert_type(unique_ids()(history), Verdict)
    history.check(checkers)  # type: ignore[arg-type]
    history.check(unique_ids)  # type: ignore[arg-type]
    bounded_staleness()  # type: ignore[call-arg]


class ScriptedPrices(Prices):
    def execute(self, client: Client, kind: str, key: str | None, value: Any) -> None: ...


class Shop(ResilienceMachine):
    struck = Bundle[Struck]("struck")

    @rule(key=st.sampled_from("ab"))
    def write(self, key: str) -> None:
        self.operate("update", key=key, value=1)
        self.cancel()

    @rule(target=struck)
    def outage(self) -> Struck:
        return self.strike("redis.refuse", until=touched(1))

    @rule(strike=struck)
    def end_of_outage(self, strike: Struck) -> None:
        self.heal(strike)
        self.heal("redis.refuse")  # type: ignore[arg-type]

    @precondition(lambda self: self.can_end_episode)
    @rule()
    def quiet_time(self) -> None:
        self.end_episode()

    def check(self, history: History) -> None:
        history.check(no_lost_writes())


def machines_run_and_programs_replay(resilience: Resilience) -> None:
    Shop.run(resilience, ScriptedPrices(), profile="ci", seed=3, recovery=2.0)
    Shop.run(resilience)  # type: ignore[call-arg]
    program = Program(Schedule([Episode([], operations=1)]), [[Operate("update", key="a", value=1)]])
    assert_type(program.play(resilience, ScriptedPrices(), clients=1), History)
