"""The effect of each fault on a client, and its end with the test."""

from __future__ import annotations

import resource

import pytest


def test_every_network_and_process_fault_has_its_effect_and_heals(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest, redis, socket, time
        from pytest_resilience import eventually, SetupError

        def client(r, **options):
            return redis.Redis.from_url(r.redis.url, socket_timeout=0.3, socket_connect_timeout=0.3, retry=None, **options)

        @pytest.mark.parametrize("strike, error", [
            (lambda r: r.redis.refuse(), ConnectionRefusedError), (lambda r: r.redis.kill(), Exception),
            (lambda r: r.redis.blackhole(), TimeoutError), (lambda r: r.redis.blackhole("up"), TimeoutError),
            (lambda r: r.redis.blackhole("down"), TimeoutError), (lambda r: r.redis.pause(), TimeoutError),
            (lambda r: r.redis.latency(seconds=0.5), TimeoutError), (lambda r: r.redis.reset(), ConnectionResetError),
        ], ids="refuse kill blackhole up down pause latency reset".split())
        def test_fault(resilience, strike, error):
            def ping():
                with socket.create_connection((resilience.redis.host, resilience.redis.port), timeout=0.3) as s:
                    s.sendall(b"PING\\r\\n")
                    answer = s.recv(100)
                    if answer == b"":
                        raise ConnectionResetError("closed")
                    return answer
            assert ping() == b"+PONG\\r\\n"
            with strike(resilience) as struck:
                with pytest.raises((error, ConnectionResetError)):
                    ping()
            assert eventually(ping, within=2) == b"+PONG\\r\\n"
            assert struck.receipt.touched > 0, struck.receipt
            assert struck.label.startswith("redis.")
            struck.heal()   # a second call does nothing

        def test_bare_call(resilience):
            resilience.redis.refuse()
            with pytest.raises(redis.ConnectionError):
                client(resilience).ping()

        def test_healed_after_a_bare_call(resilience):
            assert client(resilience).ping()

        def test_failed_test_heals_too(resilience):
            resilience.redis.refuse()
            with pytest.raises(redis.ConnectionError):
                client(resilience).ping()
            assert False, "as planned"

        def test_healed_after_failure(resilience):
            assert client(resilience).ping()

        def test_two_refusals_heal_independently(resilience):
            first, second = resilience.redis.refuse(), resilience.redis.refuse()
            with pytest.raises(redis.ConnectionError):
                client(resilience).ping()
            first.heal()
            with pytest.raises(redis.ConnectionError):
                client(resilience).ping()
            second.heal()
            assert client(resilience).ping()

        def test_restart_is_over_when_the_call_returns(resilience):
            with resilience.redis.restart():
                assert client(resilience).ping()

        def test_bandwidth(resilience):
            c = client(resilience)
            c.set("big", b"x" * 20_000)
            with resilience.redis.bandwidth(bytes_per_s=10_000):
                begin = time.monotonic()
                assert len(c.get("big")) == 20_000
                assert time.monotonic() - begin > 1.5

        def test_a_toxic_by_hand_does_not_reach_the_next_test(resilience):
            resilience.redis.proxy.add_toxic(type="timeout", attributes={"timeout": 0})
            with pytest.raises(redis.TimeoutError):
                client(resilience).ping()

        def test_a_toxic_by_hand_is_gone(resilience):
            assert client(resilience).ping()

        @pytest.mark.parametrize("wrong", [
            lambda r: r.redis.latency(seconds=-1), lambda r: r.redis.latency(seconds=0), lambda r: r.redis.blackhole("sideways"),
            lambda r: r.redis.bandwidth(0), lambda r: r.postgres.starve(), lambda r: r.postgres.starve(1, "x"),
            lambda r: r.postgres.starve(lock="nowhere"), lambda r: r.redis.latency(seconds="1"),
        ])
        def test_wrong_settings_are_refused_at_once(resilience, wrong):
            with pytest.raises(SetupError):
                wrong(resilience)
            assert resilience.strikes == []
        """
    )
    result = project.runpytest_subprocess()
    result.assert_outcomes(passed=24, failed=1)
    result.stdout.fnmatch_lines(["redis.kill: 1 strike, all hit (1 process)", "redis.refuse: 5 strikes, *"])
    result.stdout.fnmatch_lines(["*as planned*"])


def test_refused_connections_are_counted(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import socket, pytest
        from pytest_resilience import eventually

        def test_it(resilience):
            strike = resilience.postgres.refuse()
            for _ in range(3):
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection((resilience.postgres.host, resilience.postgres.port), timeout=1)
            eventually(lambda: strike.receipt.touched == 3, within=1)
            receipt = strike.receipt
            assert receipt.touched == 3 and receipt.unit == "connections"
            assert 0 <= receipt.first <= receipt.last < 5
            strike.heal()
            assert strike.receipt.touched == 3
        """
    )
    project.runpytest_subprocess().assert_outcomes(passed=1)


def test_a_process_with_many_descriptors_can_strike(project: pytest.Pytester) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < 2000:
        pytest.skip(f"this user may have {hard} descriptors only")
    project.makeconftest(
        """
        import resource, socket

        resource.setrlimit(resource.RLIMIT_NOFILE, (2000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        held = [socket.socket()]
        while held[-1].fileno() < 1100:
            held.append(socket.socket())
        """
    )
    project.makepyfile(
        """
        import redis, pytest

        @pytest.mark.parametrize("fault", ["refuse", "reset", "pause", "kill"])
        def test_redis(resilience, fault):
            with redis.Redis.from_url(resilience.redis.url, socket_timeout=0.3) as client:
                assert client.ping()
                with getattr(resilience.redis, fault)() as strike, pytest.raises(redis.RedisError):
                    client.ping()
            assert strike.receipt.touched
        """
    )
    project.runpytest_subprocess().assert_outcomes(passed=4)


def test_starvation_by_lock_and_by_connections(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import asyncio, asyncpg, pytest

        async def execute(url, *queries):
            connection = await asyncpg.connect(url, command_timeout=0.3)
            try:
                for query in queries:
                    await connection.execute(query)
            finally:
                await connection.close()

        def test_lock(resilience):
            asyncio.run(execute(resilience.postgres.url, "create table t (x int)"))
            with resilience.postgres.starve(lock="t") as strike:
                with pytest.raises(TimeoutError):
                    asyncio.run(execute(resilience.postgres.url, "select * from t"))
            assert strike.receipt.touched == 1
            asyncio.run(execute(resilience.postgres.url, "select * from t"))

        def test_connections(resilience):
            async def three():
                held = []
                try:
                    for _ in range(3):
                        held.append(await asyncpg.connect(resilience.postgres.url))
                finally:
                    for connection in held:
                        await connection.close()
            with resilience.postgres.starve(connections=2) as strike:
                assert strike.label == "postgres.starve(connections=2)"
                with pytest.raises(asyncpg.TooManyConnectionsError):
                    asyncio.run(three())
            assert strike.receipt.touched == 1
            asyncio.run(three())
        """
    )
    project.runpytest_subprocess().assert_outcomes(passed=2)


def test_a_refusal_that_cannot_be_attributed_is_unknown_and_not_vacuous(project: pytest.Pytester) -> None:
    """The kernel reports a refused client that blocks in connect() without a port, so it may have been refused elsewhere."""
    project.makepyfile(
        """
        import socket, pytest

        def test_it(resilience):
            with resilience.postgres.refuse() as strike:
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection((resilience.postgres.host, resilience.postgres.port))
            assert strike.receipt.touched in (None, 1), "a receipt of 0 would be wrong"
        """
    )
    project.runpytest_subprocess("--resilience-strict").assert_outcomes(passed=1)
