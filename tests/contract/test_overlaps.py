"""The contract of faults that overlap on one target. Each strike and each heal works, or its error names the other fault.

With RESILIENCE_OVERLAPS=all, every ordered pair of faults that heal is struck on each target and healed in both orders. Otherwise, the
seed of the run chooses a few partners of each fault. RESILIENCE_OVERLAPS=N plays N random triples on each target.
"""

import contextlib
import itertools
import json
import os
import random
import socket
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from pytest_resilience.clients.redis import RedisClient
from pytest_resilience.errors import CannotInject, HealFailed, SetupError
from pytest_resilience.faults import FAULTS, Fault
from pytest_resilience.options import options_of
from pytest_resilience.resilience import Resilience
from pytest_resilience.stack import Stack
from pytest_resilience.targets.procfs import memory
from pytest_resilience.targets.service_spec import Service
from tests.support.backends import sql, started
from tests.support.waiting import until

# Seconds for an error that names another fault. The clients whose time-outs it must not wait for give up after 5 and 10 s.
PROMPT = 4.5
MILD = {
    "latency": [{"seconds": 0.001}],
    "bandwidth": [{"bytes_per_s": 1_000_000}],
    "slow_close": [{"seconds": 0.001}],
    "slicer": [{"average_bytes": 64}],
    "limit_data": [{"bytes": 1_000_000}],
    "flap": [{"down": 0.01, "up": 0.01}],
    "slow_accept": [{"seconds": 0.001}],
    "on": [{"verb": "*", "act": "delay", "seconds": 0.001}],
    "after": [{"verb": "*", "fault": "latency", "settings": {"seconds": 0.001}}],
    "restart": [{}],
    "starve": [{"connections": 2}, {"lock": "orders"}],
    "take_connections": [{"left": 0}],
    "slow_queries": [{"seconds": 0.05}],
    "memory_pressure": [{"headroom_mb": 64}],
    "memory_limit": [{"headroom_mb": 64}],
    "exhaust_descriptors": [{"left": 2}],
    "starve_cpu": [{"share": 0.5}],
}
SERVER = """
import os
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass

HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


def faults_of(target: str) -> list[Fault]:
    """Return the faults that strike a target, each with mild settings. Those that don't heal have a heal that does nothing."""
    kinds = [kind for kind in FAULTS.values() if target in kind.targets]
    return [kind(**settings) for kind in kinds for settings in MILD.get(kind.name, [{}])]


POSTGRES_STATE = """
select json_build_object(
    'read_only', current_setting('default_transaction_read_only'),
    'settings', (select count(*) from pg_file_settings where sourcefile like '%auto.conf'),
    'locks', (select count(*) from pg_locks where relation = 'orders'::regclass),
    'own', (select count(*) from pg_stat_activity where application_name = 'pytest-resilience'))
"""
TARGETS = ("redis", "postgres", "service")
EXTENT = os.environ.get("RESILIENCE_OVERLAPS", "")
PARTNERS = 2  # of each fault
TRIPLES = int(EXTENT) if EXTENT.isdigit() else 6  # on each target
CONNECTIONS = 12  # a server with few is exhausted sooner


def firsts():
    return [
        pytest.param(target, fault, id=fault.label(_Named(target))) for target in TARGETS for fault in faults_of(target)
    ]


class _Named:
    def __init__(self, name):
        self.name = name


def rounds(target, first, chance):
    """Return the second faults of one, each with an order of the heals."""
    seconds = faults_of(target)
    if EXTENT == "all":
        return list(itertools.product(seconds, [(0, 1), (1, 0)]))
    chosen = [first, *chance.sample(seconds, min(PARTNERS, len(seconds)))]
    return [(second, chance.choice([(0, 1), (1, 0)])) for second in chosen]


@pytest.fixture(scope="module")
def stack():
    with started("embedded") as backend:
        server = backend.servers["postgres"]
        sql(server, f"alter system set max_connections = {CONNECTIONS}", "select 1")
        server.restart()
        made = Stack(_Started(backend), seed=1)
        made.load_schema("create table orders (n int)")
        yield made
        made.close()


class _Started:
    """A started backend for a stack that would start and close it."""

    def __init__(self, backend):
        self._backend = backend

    def __getattr__(self, name):
        return (lambda: None) if name in ("start", "close") else getattr(self._backend, name)


@pytest.fixture(scope="module")
def service():
    return Service([sys.executable, "-S", "-c", SERVER], restart_between_tests=False)


@pytest.fixture
def chance(request):
    """Random choices that follow from the seed of the run and from the test."""
    return random.Random(f"{options_of(request.config).seed} {request.node.name}")


@pytest.fixture
def resilience(stack, service):
    running = stack.prepare_test(service)
    resilience = Resilience(stack, running)
    yield resilience
    resilience.finish()


def _status(pid):
    try:
        return psutil.Process(pid).status()
    except psutil.NoSuchProcess:  # a session of Postgres has ended
        return psutil.STATUS_ZOMBIE


class Watched:
    """One target, with its state and with a client that is connected through the proxy."""

    def __init__(self, resilience, name):
        self.target = getattr(resilience, name)
        self.name = name
        self._socket = None

    def connect(self):
        self.disconnect()
        if self.name != "service":
            self._socket = socket.create_connection((self.target.host, self.target.port), timeout=2)
            until(self.target.proxy_handle.clients)

    def disconnect(self):
        if self._socket is not None:
            self._socket.close()
            until(lambda: not self.target.proxy_handle.clients())
            self._socket = None

    def answers(self):
        if self.name == "service":
            return self.target.get("/").status_code == 200
        if self.name == "postgres":
            return sql(self.target.server, "insert into orders values (1)", "select 1") == 1
        with RedisClient(self.target.url, name="watch", timeout=2) as client:
            return client.call("SET", "key", "value") == "OK"

    def state(self):
        """Return all that a fault may change: settings, limits, locks, sessions, threads, toxics and stopped processes."""
        own = sorted(each.name for each in threading.enumerate() if each.name.startswith("resilience-"))
        found = {"threads": own, "states": self._process_states()}
        return found | getattr(self, f"_state_of_{self.name}")()

    def _process_states(self):
        pids = self.target.process_control.processes()
        return {"alive": bool(pids), "stopped": [pid for pid in pids if _status(pid) == psutil.STATUS_STOPPED]}

    def _state_of_service(self):
        process = self.target.process
        return {
            "limits": [process.rlimit(which) for which in (psutil.RLIMIT_DATA, psutil.RLIMIT_NOFILE)],
            "affinity": process.cpu_affinity(),
            "cgroup": Path(f"/proc/{process.pid}/cgroup").read_text(),
            "data": memory(process.pid).data > 0,
        }

    def _state_of_proxy(self):
        handle = self.target.proxy_handle
        raw = handle.toxiproxy.request("GET", f"/proxies/{handle.name}")
        return {"proxy": raw, "disabled": handle.disabled_by}

    def _state_of_redis(self):
        with RedisClient(self.target.direct_url, name="watch", timeout=2) as client:
            config = client.call("CONFIG", "GET", "*")
            own = len([each for each in client.clients() if each["name"] == "pytest-resilience"])
            keys = client.call("KEYS", "*")
            return {
                "config": dict(zip(config[::2], config[1::2], strict=True)),
                "role": client.call("ROLE")[0],
                "own": max(0, own - 1),
                "keys": [key for key in keys if key != "key"],
            } | self._state_of_proxy()

    def _state_of_postgres(self):
        found = json.loads(sql(self.target.server, POSTGRES_STATE))
        return found | {"own": max(0, found["own"] - 1)} | self._state_of_proxy()


def strike(watched, fault, problems):
    """Return the strike, or None if another fault prevents it."""
    begun = time.monotonic()
    active = watched.target.active_strikes()
    try:
        return fault.strike(watched.target)
    except CannotInject:  # on this machine, alone or not
        return None
    except SetupError as error:
        problems += explain(f"strike {fault.label(watched.target)}", error, active, begun)
    except Exception as error:  # noqa: BLE001  # any error is a problem to report
        problems.append(f"strike {fault.label(watched.target)}: {error!r}")
    return None


def explain(what, error, active, begun):
    """Return what an error lacks: the name of the fault that prevents the action, one line, and a time limit."""
    took = time.monotonic() - begun
    problems = []
    if not any(each.label in str(error).partition(" while ")[2] for each in active):
        problems.append(f"{what}: names no active fault: {error!r}")
    if "\n" in str(error):
        problems.append(f"{what}: more than one line: {error!r}")
    if took > PROMPT:
        problems.append(f"{what}: took {took:.2f} s: {error!r}")
    return problems


def heal(watched, struck, problems):
    """Heal a strike. Return True if it is healed, and False if another fault prevents that."""
    try:
        assert struck.receipt is not None
    except Exception as error:  # noqa: BLE001  # any error is a problem to report
        problems.append(f"receipt of {struck.label}: {error!r}")
    begun = time.monotonic()
    active = [each for each in watched.target.active_strikes() if each is not struck]
    try:
        struck.heal()
    except HealFailed as error:
        problems += explain(f"heal {struck.label}", error, active, begun)
        if not error.blocked_by or not set(error.blocked_by) <= {each.label for each in active}:
            problems.append(f"heal {struck.label}: blocked by {error.blocked_by}")
        return struck.healed
    except Exception as error:  # noqa: BLE001  # any error is a problem to report
        problems.append(f"heal {struck.label}: {error!r}")
        return False
    if (touched := struck.receipt.touched) is not None and touched < 0:
        problems.append(f"receipt of {struck.label}: {struck.receipt}")
    return True


def play(watched, faults, order):
    """Strike faults, heal them in an order of their numbers, and return all problems."""
    problems = []
    before = watched.state()
    watched.connect()
    struck = [strike(watched, fault, problems) for fault in faults]
    pending = [struck[number] for number in order if struck[number] is not None]
    for _ in range(len(faults)):
        pending = [each for each in pending if not heal(watched, each, problems)]
    problems += [f"{each.label} is never healed" for each in pending]
    watched.disconnect()
    try:
        if not watched.answers():
            problems.append("it does not answer")
        until(lambda: watched.state() == before, within=3)
    except Exception as error:  # noqa: BLE001  # any error is a problem to report
        problems.append(f"afterwards: {error!r}: {difference(before, watched)}")
    return problems


def difference(before, watched):
    try:
        after = watched.state()
    except Exception as error:  # noqa: BLE001  # any error is a problem to report
        return repr(error)
    return {key: (value, after.get(key)) for key, value in before.items() if after.get(key) != value}


def report(faults, order, problems):
    """Return the problems of one round, for a failed assertion."""
    return [f"{' + '.join(map(repr, faults))}, healed in the order {order}: {problem}" for problem in problems]


@pytest.mark.parametrize(("target", "first"), firsts())
def test_two_faults_on_one_target_work_or_the_error_names_the_other(resilience, chance, target, first):
    watched, problems = Watched(resilience, target), []
    for second, order in rounds(target, first, chance):
        problems += report([first, second], order, play(watched, [first, second], order))
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("target", TARGETS)
def test_three_faults_on_one_target_work_or_the_error_names_another(resilience, chance, target):
    watched, problems = Watched(resilience, target), []
    for _ in range(TRIPLES):
        faults = [chance.choice(faults_of(target)) for _ in range(3)]
        order = chance.sample(range(3), 3)
        problems += report(faults, order, play(watched, faults, order))
    assert not problems, "\n".join(problems)


def test_the_first_heal_of_two_equal_faults_leaves_the_other_in_force(resilience, service):
    """Heal the older of two strikes, and look for the effect of the later one."""
    redis, postgres, target = resilience.redis, resilience.postgres, resilience.service
    with RedisClient(redis.direct_url, name="watch", timeout=2) as client:
        for strike, read, struck in (
            (redis.oom, lambda: client.setting("maxmemory"), "1"),
            (redis.readonly, lambda: client.call("ROLE")[0], "slave"),
            (redis.refuse, lambda: redis.proxy_handle.disabled_by, 1),
            (postgres.read_only, lambda: sql(postgres.server, "show default_transaction_read_only"), "on"),
            (target.pause, lambda: _status(target.process.pid), psutil.STATUS_STOPPED),
            (lambda: target.starve_cpu(share=0.5), lambda: len(target.process.cpu_affinity()), 1),
            (lambda: postgres.take_connections(left=3), lambda: own_sessions(postgres), CONNECTIONS - 3),
        ):
            before = read()
            first, second = strike(), strike()
            first.heal()
            assert read() == struck, second
            second.heal()
            until(lambda: read() == before)  # noqa: B023  # called within the loop


def own_sessions(postgres):
    """Return the number of sessions that this package has."""
    return sql(postgres.server, "select count(*) from pg_stat_activity where application_name = 'pytest-resilience'")


def test_a_heal_while_the_server_does_not_answer_is_prompt_and_can_be_repeated(resilience):
    """Stop the processes without a strike, so that only the time-out of the heal ends it."""
    for struck, control in (
        (resilience.redis.oom(), resilience.redis.process_control),
        (resilience.postgres.starve(lock="orders"), resilience.postgres.process_control),
    ):
        control.pause()
        try:
            begun = time.monotonic()
            with contextlib.suppress(HealFailed):
                struck.heal()
            assert time.monotonic() - begun < PROMPT
        finally:
            control.resume()
        struck.heal()
        assert struck.healed


def test_a_script_that_finds_no_connection_changes_nothing(resilience):
    watched = Watched(resilience, "redis")
    before = watched.state()
    with RedisClient(resilience.redis.direct_url, name="watch", timeout=2) as client:
        client.configure("maxclients", str(len(client.clients())))
        begun = time.monotonic()
        with pytest.raises(SetupError, match="does not keep the server busy, because the command ended"):
            resilience.redis.busy_script()
        assert time.monotonic() - begun < PROMPT
        client.configure("maxclients", before["config"]["maxclients"])
    assert watched.state() == before


def test_connections_that_were_taken_before_one_failed_are_closed(resilience, monkeypatch):
    admin = resilience.postgres.admin
    connect, opened = admin.connect, []

    async def fail_at_the_fifth(database=None):
        opened.append(database)
        if len(opened) == 5:
            raise ConnectionRefusedError("refused")
        return await connect(database)

    before = own_sessions(resilience.postgres)
    monkeypatch.setattr(admin, "connect", fail_at_the_fifth)
    with pytest.raises(SetupError, match=r"postgres\.take_connections cannot strike: ConnectionRefusedError: refused"):
        resilience.postgres.take_connections()
    until(lambda: own_sessions(resilience.postgres) == before)


def test_a_change_of_settings_that_is_not_loaded_is_undone(resilience, monkeypatch):
    admin = resilience.postgres.admin
    before = sql(admin.server, POSTGRES_STATE)
    sql(admin.server, "alter database resilience set default_transaction_read_only = off", "select 1")
    admin.run(admin.close_session)
    monkeypatch.setattr("pytest_resilience.admin.postgres.STATEMENT_TIMEOUT", 0.1)
    with pytest.raises(SetupError, match="has not loaded"):
        resilience.postgres.read_only()
    monkeypatch.undo()
    until(lambda: sql(admin.server, POSTGRES_STATE) == before)


DEPENDENT = """
import os, socket
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            socket.create_connection(("127.0.0.1", int(os.environ["POSTGRES_PORT"])), timeout=1).close()
            self.send_response(200)
        except OSError:
            self.send_response(503)
        self.end_headers()

    def log_message(self, *_):
        pass

if os.environ.get("NEEDS_POSTGRES"):
    socket.create_connection(("127.0.0.1", int(os.environ["POSTGRES_PORT"])), timeout=1).close()
HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


def dependent(stack, **env):
    return Service(
        [sys.executable, "-S", "-c", DEPENDENT], env={"POSTGRES_PORT": str(stack.postgres.port), **env}, within=5
    )


def test_a_killed_service_starts_although_the_system_that_it_needs_is_struck(stack):
    resilience = Resilience(stack, stack.prepare_test(dependent(stack)))
    kill, refuse = resilience.service.kill(), resilience.postgres.refuse()
    kill.heal()
    assert resilience.service.get("/").status_code == 503
    refuse.heal()
    assert resilience.service.get("/").status_code == 200
    resilience.finish()


def test_the_heal_of_a_service_that_exits_without_a_struck_system_names_the_strike(stack):
    resilience = Resilience(stack, stack.prepare_test(dependent(stack, NEEDS_POSTGRES="1")))
    kill, refuse = resilience.service.kill(), resilience.postgres.refuse()
    with pytest.raises(HealFailed, match="ended with exit code 1") as raised:
        kill.heal()
    assert raised.value.blocked_by == ("postgres.refuse",)
    refuse.heal()
    kill.heal()
    assert resilience.service.get("/").status_code == 200
    resilience.finish()
