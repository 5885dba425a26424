"""Faults inside the servers, which answer with errors until the heal."""

from __future__ import annotations

import pytest


def test_redis_answers_with_errors_and_heals(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import contextlib, pytest, pytest_resilience, redis

        @contextlib.contextmanager
        def connect(resilience):
            # Old versions of redis-py leave the connection open at the end of the client.
            with redis.Redis.from_url(resilience.redis.url, retry=None, socket_timeout=2) as client:
                yield client
                client.connection_pool.disconnect()

        @pytest.fixture
        def client(resilience):
            with connect(resilience) as client:
                client.set("key", "value")
                yield client

        def test_oom(resilience, client):
            with resilience.redis.oom() as strike:
                with pytest.raises(redis.exceptions.OutOfMemoryError):
                    client.set("key", "other")
                assert client.get("key") == b"value"
            assert client.set("key", "other")
            assert (strike.receipt.touched, strike.receipt.unit) == (1, "commands")
            assert client.config_get("maxmemory") == {"maxmemory": "0"}

        def test_readonly(resilience, client):
            with resilience.redis.readonly() as strike:
                with pytest.raises(redis.exceptions.ReadOnlyError):
                    client.set("key", "other")
                assert client.get("key") == b"value"
            assert client.set("key", "other")
            assert client.info("replication")["role"] == "master"
            assert strike.receipt.touched == 1

        def test_max_clients(resilience, client):
            client.ping()
            with resilience.redis.max_clients(left=1) as strike:
                with connect(resilience) as one, connect(resilience) as two:
                    assert one.ping()
                    with pytest.raises(redis.ConnectionError, match="max number of clients"):
                        two.ping()
                assert client.ping()
            assert (strike.receipt.touched, strike.receipt.unit) == (1, "connections")
            with connect(resilience) as one:
                assert one.ping()

        def test_client_kill_output_buffer(resilience, client):
            client.set("big", "x" * 100_000)
            with resilience.redis.client_kill_output_buffer() as strike:
                assert client.get("key") == b"value", "small answers fit"
                with pytest.raises(redis.ConnectionError):
                    client.getrange("big", 0, -1)
            assert (strike.receipt.touched, strike.receipt.unit) == (1, "connections")
            assert len(client.getrange("big", 0, -1)) == 100_000

        def test_max_clients_does_not_count_a_connection_that_is_ending(resilience, client):
            with connect(resilience) as ending:
                number = str(ending.client_id())
                resilience.redis.proxy.add_toxic(type="slow_close", stream="upstream", attributes={"delay": 200})
            with resilience.redis.max_clients():
                pytest_resilience.eventually(lambda: number not in {each["id"] for each in client.client_list()}, within=10)
                with connect(resilience) as another:
                    with pytest.raises(redis.ConnectionError, match="max number of clients"):
                        another.ping()

        def test_flush(resilience, client):
            client.select(3)
            client.set("other", 1)
            with resilience.redis.flush() as strike:
                assert client.get("key") is None
            assert (strike.receipt.touched, strike.receipt.unit) == (2, "keys")

        @pytest.mark.fault("redis.flush")
        def test_flush_of_nothing_is_vacuous(resilience):
            pass
        """
    )
    result = project.runpytest_subprocess()
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines(["*6 passed, 1 vacuous*"])


def test_postgres_ends_sessions_refuses_writes_and_crashes(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import asyncio, asyncpg, pytest

        # asyncpg.InternalClientError: it has read the server's last message, and not yet the end of the stream
        ENDED = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)

        @pytest.fixture
        def runner():
            with asyncio.Runner() as runner:
                yield runner

        @pytest.fixture
        def connection(resilience, runner):
            connection = runner.run(asyncpg.connect(resilience.postgres.url))
            runner.run(connection.execute("create table t (x int)"))
            yield connection
            connection.terminate()

        def query_row(resilience, runner, query):
            async def work():
                connection = await asyncpg.connect(resilience.postgres.url)
                try:
                    return await connection.fetchval(query)
                finally:
                    await connection.close()
            return runner.run(work())

        def test_terminate_backends(resilience, runner, connection):
            strike = resilience.postgres.terminate_backends()
            with pytest.raises(ENDED):
                runner.run(connection.fetchval("select 1"))
            assert strike.receipt.touched == 1
            assert query_row(resilience, runner, "select count(*) from t") == 0

        def test_crash(resilience, runner, connection):
            runner.run(connection.execute("insert into t values (7)"))
            strike = resilience.postgres.crash()
            with pytest.raises(ENDED):
                runner.run(connection.fetchval("select 1"))
            assert strike.receipt.touched == 1
            assert query_row(resilience, runner, "select x from t") == 7, "an acknowledged row survives"

        def test_read_only(resilience, runner, connection):
            with resilience.postgres.read_only() as strike:
                assert query_row(resilience, runner, "select count(*) from t") == 0
                with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                    query_row(resilience, runner, "insert into t values (1) returning x")
            assert strike.receipt.touched is None
            assert query_row(resilience, runner, "insert into t values (1) returning x") == 1
        """
    )
    project.runpytest_subprocess("--resilience-strict").assert_outcomes(passed=3)


def test_a_lock_counts_the_sessions_that_end_while_they_wait_for_it(project: pytest.Pytester) -> None:
    """The monitor of the lock rests, and a fault ends a session that has begun to wait meanwhile."""
    project.makepyfile(
        """
        import asyncio, asyncpg, pytest
        from pytest_resilience import eventually
        from pytest_resilience.admin import postgres_holds

        ENDED = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)

        @pytest.mark.parametrize("fault", ["terminate_backends", "crash"])
        def test_it(resilience, monkeypatch, fault):
            monkeypatch.setattr(postgres_holds, "POLL_INTERVAL", 3600.0)

            with asyncio.Runner() as runner:
                waiting, watching = (runner.run(asyncpg.connect(resilience.postgres.direct_url)) for _ in range(2))
                runner.run(watching.execute("create table t (x int)"))
                with resilience.postgres.starve(lock="t") as lock:
                    assert lock.receipt.touched == 0
                    statement = runner.get_loop().create_task(waiting.fetchval("select count(*) from t"))
                    query = "select exists (select from pg_locks where not granted)"
                    eventually(lambda: runner.run(watching.fetchval(query)), within=5.0)
                    getattr(resilience.postgres, fault)()
                    assert lock.receipt.touched == 1
                with pytest.raises(ENDED):
                    runner.run(asyncio.wait_for(statement, 5.0))
                waiting.terminate()
                watching.terminate()
        """
    )
    project.runpytest_subprocess("--resilience-strict").assert_outcomes(passed=2)


def test_sessions_that_clients_have_closed_do_not_count(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import asyncio, asyncpg, pytest

        @pytest.mark.parametrize("fault, times", [("terminate_backends", 10), ("crash", 3)])
        def test_it(resilience, fault, times):
            async def body():
                found = []
                for _ in range(times):
                    client = await asyncpg.connect(resilience.postgres.direct_url)
                    client.terminate()
                    await asyncio.sleep(0)  # the socket closes in the next turn
                    found.append(getattr(resilience.postgres, fault)().receipt.touched)
                assert found == [0] * times
            asyncio.run(body())
        """
    )
    assert project.runpytest_subprocess().parseoutcomes() == {"vacuous": 2}


def test_a_lock_claims_no_zero_where_a_statement_may_have_waited_unseen(project: pytest.Pytester) -> None:
    """The monitor of the lock rests, as it does between two queries."""
    project.makepyfile(
        """
        import asyncio, asyncpg, os, pytest, signal
        from pytest_resilience import eventually
        from pytest_resilience.admin import postgres_holds

        ENDED = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
        WAITS = "select exists (select from pg_locks where not granted)"

        @pytest.fixture(autouse=True)
        def resting(monkeypatch):
            monkeypatch.setattr(postgres_holds, "POLL_INTERVAL", 3600.0)

        async def connect(resilience):
            client = await asyncpg.connect(resilience.postgres.direct_url)
            await client.execute("create table if not exists t (x int)")
            return client

        @pytest.mark.parametrize("fault", [("hold_locks", "t"), ("slow_queries", 3600.0, "t")])
        def test_it_does_not_wait(resilience, fault):
            async def body():
                client = await connect(resilience)
                with getattr(resilience.postgres, fault[0])(*fault[1:]) as lock:
                    assert lock.receipt.touched == 0
                    with pytest.raises(asyncpg.LockNotAvailableError):
                        async with client.transaction():
                            await client.execute("lock table t nowait")
                assert lock.receipt.touched is None
                await client.close()
            asyncio.run(body())

        def test_it_ends_with_the_server(resilience):
            async def body():
                waiting, watching = [await connect(resilience) for _ in range(2)]
                with resilience.postgres.hold_locks("t") as lock:
                    assert lock.receipt.touched == 0
                    statement = asyncio.ensure_future(waiting.fetchval("select count(*) from t"))
                    while not await watching.fetchval(WAITS):
                        pass
                    with resilience.postgres.kill():
                        pass
                    assert lock.receipt.touched is None
                with pytest.raises(ENDED):
                    await asyncio.wait_for(statement, 5.0)
                waiting.terminate()
                watching.terminate()
            asyncio.run(body())

        def test_the_server_does_not_answer_in_time(resilience):
            async def body():
                waiting, watching = [await connect(resilience) for _ in range(2)]
                with resilience.postgres.hold_locks("t") as lock:
                    assert lock.receipt.touched == 0
                    monitor = await watching.fetchval("select pid from pg_locks where mode = 'AccessExclusiveLock' and granted")
                    os.kill(monitor, signal.SIGSTOP)
                    statement = asyncio.ensure_future(waiting.fetchval("select count(*) from t"))
                    while not await watching.fetchval(WAITS):
                        pass
                    try:
                        assert lock.receipt.touched is None
                    finally:
                        os.kill(monitor, signal.SIGCONT)
                assert lock.receipt.touched == 1
                assert await asyncio.wait_for(statement, 5.0) == 0
                await waiting.close()
                await watching.close()
            asyncio.run(body())
        """
    )
    project.runpytest_subprocess("--resilience-strict").assert_outcomes(passed=4)


def test_the_receipts_of_redis_count_all_that_was_affected(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import redis, pytest, threading

        def connect(resilience):
            return redis.Redis.from_url(resilience.redis.url, retry=None, socket_timeout=5)

        def test_a_client_that_waits_for_data_when_the_server_turns_into_a_replica(resilience):
            with connect(resilience) as waiting, connect(resilience) as watching:
                failures = []

                def wait():
                    try:
                        waiting.blpop("jobs", timeout=0)
                    except redis.exceptions.ResponseError as error:
                        failures.append(str(error))

                thread = threading.Thread(target=wait)
                thread.start()
                while watching.info("clients")["blocked_clients"] != 1:
                    pass
                with resilience.redis.readonly() as strike:
                    thread.join()
                assert "UNBLOCKED" in failures[0]
                assert strike.receipt.touched == 1

        @pytest.mark.parametrize("earlier", [0, 1])
        def test_counts_that_a_client_resets_are_unknown(resilience, earlier):
            with connect(resilience) as client:
                for _ in range(earlier):
                    with resilience.redis.oom(), pytest.raises(redis.exceptions.OutOfMemoryError):
                        client.set("key", "value")
                with resilience.redis.oom() as strike:
                    with pytest.raises(redis.exceptions.OutOfMemoryError):
                        client.set("key", "value")
                    client.config_resetstat()
                    for _ in range(100):
                        client.ping()
                assert strike.receipt.touched is None
                assert "RESETSTAT" in strike.receipt.note

        def test_keys_that_are_written_during_a_flush(resilience):
            with connect(resilience) as client, connect(resilience) as watching:
                for _ in range(20):
                    over = threading.Event()
                    written = 0

                    def write():
                        nonlocal written
                        while not over.is_set():
                            client.set(f"key {written}", "value")
                            written += 1

                    thread = threading.Thread(target=write)
                    thread.start()
                    while not watching.dbsize():
                        pass
                    flushed = resilience.redis.flush().receipt.touched
                    over.set()
                    thread.join()
                    assert flushed == written - watching.dbsize()
                    watching.flushall()
        """
    )
    project.runpytest_subprocess("--resilience-strict").assert_outcomes(passed=4)


def test_redis_loads_is_busy_has_no_primary_and_heals(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import contextlib, pytest, pytest_resilience, redis, threading

        @pytest.fixture
        def client(resilience):
            with redis.Redis.from_url(resilience.redis.url, retry=None, socket_timeout=2) as client:
                client.set("key", "value")
                yield client

        def test_loading(resilience, client):
            with resilience.redis.loading() as strike:
                for _ in range(3):
                    with pytest.raises(redis.exceptions.BusyLoadingError):
                        client.get("key")
            assert (strike.receipt.touched, strike.receipt.unit) == (3, "commands")
            assert client.keys() == [b"key"], "the data stays, and the padding is gone"
            assert client.config_get("key-load-delay") == {"key-load-delay": "0"}

        def test_busy_script(resilience, client):
            with resilience.redis.busy_script() as strike:
                for _ in range(3):
                    with pytest.raises(redis.exceptions.ResponseError, match="BUSY"):
                        client.get("key")
                assert strike.receipt.touched is None
            assert (strike.receipt.touched, strike.receipt.unit) == (3, "commands")
            assert client.get("key") == b"value"

        def test_readonly_without_a_primary(resilience, client):
            with resilience.redis.readonly(stale=False) as strike:
                with pytest.raises(redis.ResponseError, match="MASTER is down"):
                    client.get("key")
            assert strike.receipt.touched == 1
            assert client.get("key") == b"value"

        def test_restart_with_data_kept_keeps_every_acknowledged_write(resilience):
            acknowledged = [0]

            def count():
                with contextlib.suppress(redis.ConnectionError), redis.Redis.from_url(resilience.redis.url, retry=None) as client:
                    while True:
                        acknowledged[0] = client.incr("counter")

            writer = threading.Thread(target=count)
            writer.start()
            pytest_resilience.eventually(lambda: acknowledged[0] > 100, within=10)
            resilience.redis.restart("kept")
            writer.join()
            with redis.Redis.from_url(resilience.redis.url) as client:
                assert int(client.get("counter")) >= acknowledged[0]

        def test_restart_with_data_kept_then_killed(resilience):
            def call(command, *words):
                with redis.Redis.from_url(resilience.redis.url, retry=None) as client:
                    return client.execute_command(command, *words)
            call("SET", "key", "value")
            resilience.redis.restart("kept")
            assert call("GET", "key") == b"value"
            resilience.redis.restart("lost")
            assert call("GET", "key") is None
            call("SET", "key", "value")
            resilience.redis.restart("kept")
            with resilience.redis.kill():
                pass
            assert call("GET", "key") is None, "data saved for one restart was loaded by another start"

        def test_restart_of_postgres_takes_no_such_setting(resilience):
            from pytest_resilience import SetupError
            with pytest.raises(SetupError, match="data= is for Redis"):
                resilience.strike("postgres.restart", data="kept")
            with pytest.raises(SetupError, match="'kept' or 'lost'"):
                resilience.redis.restart("perhaps")
        """
    )
    project.runpytest_subprocess("--resilience-strict").assert_outcomes(passed=6)


def test_postgres_has_no_connections_held_locks_and_slow_queries(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import asyncio, asyncpg, pytest
        from pytest_resilience import SetupError, eventually

        @pytest.fixture
        def runner():
            with asyncio.Runner() as runner:
                yield runner

        @pytest.fixture
        def connection(resilience, runner):
            connection = runner.run(asyncpg.connect(resilience.postgres.url))
            runner.run(connection.execute("create table t (x int); create table u (x int)"))
            yield connection
            connection.terminate()

        def test_take_connections(resilience, runner, connection):
            with resilience.postgres.take_connections() as strike:
                with pytest.raises(asyncpg.TooManyConnectionsError):
                    runner.run(asyncpg.connect(resilience.postgres.url))
                assert runner.run(connection.fetchval("select 1")) == 1
            assert (strike.receipt.touched, strike.receipt.unit) == (1, "connections")
            assert runner.run(asyncpg.connect(resilience.postgres.url)).terminate() is None

        @pytest.mark.parametrize("named", [("t",), ("t", "u"), ()])
        def test_hold_locks(resilience, runner, connection, named):
            with resilience.postgres.hold_locks(*named) as strike:
                for table in named or ("t", "u"):
                    with pytest.raises(asyncio.TimeoutError):
                        runner.run(connection.fetchval(f"select count(*) from {table}", timeout=0.2))
                if named == ("t",):
                    assert runner.run(connection.fetchval("select count(*) from u", timeout=2)) == 0
            assert (strike.receipt.touched, strike.receipt.unit) == (1, "connections")
            assert runner.run(connection.fetchval("select count(*) from t", timeout=2)) == 0

        def test_a_session_that_connects_while_another_waits_is_counted_too(resilience, runner, connection):
            async def body():
                async def waiting():
                    return strike.receipt.touched == len(queries)

                with resilience.postgres.hold_locks("t") as strike:
                    queries = [asyncio.create_task(connection.fetchval("select count(*) from t"))]
                    await eventually(waiting, within=5)
                    later = await asyncpg.connect(resilience.postgres.url)
                    queries.append(asyncio.create_task(later.fetchval("select count(*) from t")))
                    await eventually(waiting, within=5)
                assert await asyncio.gather(*queries) == [0, 0]
                later.terminate()

            runner.run(body())

        def test_a_session_that_begins_to_wait_just_before_the_heal_is_counted(resilience, runner, connection, monkeypatch):
            monkeypatch.setattr("pytest_resilience.admin.postgres_holds.POLL_INTERVAL", 60)
            async def body():
                other = await asyncpg.connect(resilience.postgres.direct_url)
                async def waiting():
                    return await other.fetchval("select count(*) from pg_locks where not granted") == 1

                with resilience.postgres.hold_locks("t") as strike:
                    query = asyncio.create_task(connection.fetchval("select count(*) from t"))
                    await eventually(waiting, within=5)
                assert await query == 0
                other.terminate()
                return strike.receipt.touched

            assert runner.run(body()) == 1

        def test_slow_queries(resilience, runner, connection):
            async def timed_query():
                begin = asyncio.get_running_loop().time()
                assert await connection.fetchval("select count(*) from t") == 0
                return asyncio.get_running_loop().time() - begin
            with resilience.postgres.slow_queries(0.3, "t") as strike:
                times = [runner.run(timed_query()) for _ in range(3)]
                assert min(times[1:]) > 0.2, "each statement waits for a lock that has just been acquired"
                assert runner.run(connection.fetchval("select count(*) from u", timeout=2)) == 0
            # Three, or four: the driver first sends the statement to be parsed, and both parse and execution may wait for a lock.
            assert strike.receipt.touched in (3, 4)
            assert strike.receipt.unit == "commands"

        def test_an_unknown_table_is_named(resilience, connection):
            with pytest.raises(SetupError, match=r"hold_locks.*no such table: nowhere; this database has: t, u"):
                resilience.postgres.hold_locks("nowhere")

        @pytest.mark.fault("postgres.slow_queries", seconds=0.05)
        def test_a_database_without_tables_is_an_error(resilience):
            raise AssertionError("the strike fails before the test")
        """
    )
    result = project.runpytest_subprocess("--resilience-strict")
    result.assert_outcomes(passed=8, errors=1)
    result.stdout.fnmatch_lines(["*slow_queries*nothing to lock; this database has: none*"])
