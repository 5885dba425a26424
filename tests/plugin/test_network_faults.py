"""Network faults that affect single connections, such as half-open, flapping, cut off, sliced or slow ones."""

from __future__ import annotations

import pytest


def test_each_fault_has_its_effect_and_heals(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import asyncio, asyncpg, socket, time, pytest
        from pytest_resilience import SetupError, eventually

        def connect(r, timeout=5.0):
            return socket.create_connection((r.redis.host, r.redis.port), timeout=timeout)

        def ping(s):
            s.sendall(b"PING\\r\\n")
            return s.recv(100)

        def works(r):
            with connect(r) as s:
                return ping(s) == b"+PONG\\r\\n"

        def test_half_open(resilience):
            with pytest.raises(SetupError, match="no client is connected"):
                resilience.redis.half_open()
            with connect(resilience, 1.0) as old:
                assert ping(old) == b"+PONG\\r\\n"
                with resilience.redis.half_open() as strike:
                    with pytest.raises(TimeoutError):
                        ping(old)
                    assert works(resilience), "a new connection must work"
                assert old.recv(1) == b"", "the heal closes the silent connection"
            assert strike.receipt.touched == 6

        def test_protocol_violation(resilience):
            with connect(resilience) as s:
                with resilience.redis.protocol_violation() as strike:
                    received = ping(s)
                    while len(received) < 12:
                        received += s.recv(100)
                    assert received == b"E\\xff\\xff\\xff\\xff+PONG\\r\\n", "bytes that are no message, and the answer"
                    assert ping(s) == b"+PONG\\r\\n", "once for each connection"
                assert strike.receipt.touched == 1
                assert works(resilience)

        def test_protocol_violation_of_postgres(resilience):
            async def body():
                old = await asyncpg.connect(resilience.postgres.url)
                assert await old.fetchval("select 1") == 1
                with resilience.postgres.protocol_violation() as strike:
                    # asyncpg sees the end of the connection or waits for ever, which depends on the pieces in which the bytes arrive.
                    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
                        await old.fetchval("select 2", timeout=2)
                    old.terminate()
                    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
                        await asyncpg.connect(resilience.postgres.url, timeout=5)
                assert strike.receipt.touched >= 2
                new = await asyncpg.connect(resilience.postgres.url)
                assert await new.fetchval("select 3") == 3
                await new.close()
            asyncio.run(body())

        def test_flap_by_connections(resilience):
            def outcome():
                try:
                    return works(resilience)
                except ConnectionRefusedError:
                    return False
            with resilience.redis.flap(down=2, up=1, unit="connections") as strike:
                assert not outcome(), "a flap begins with down"
                for _ in range(4):
                    eventually(outcome, within=2)
                    eventually(lambda: not outcome(), within=2)
            assert strike.receipt.touched >= 8, "two refusals for each turn"
            assert works(resilience)

        def test_flap_by_seconds(resilience):
            seen = set()
            def both():
                try:
                    seen.add(works(resilience))
                except OSError:
                    seen.add(False)
                return seen == {True, False}
            with resilience.redis.flap(down=0.02, up=0.02):
                eventually(both, within=5, every=0.001)
            assert works(resilience)

        def test_limit_data(resilience):
            with resilience.redis.limit_data(bytes=3) as strike:
                with connect(resilience) as s:
                    s.sendall(b"PING\\r\\n")
                    got = b""
                    while chunk := s.recv(100):
                        got += chunk
                    assert got == b"+PO"
            assert strike.receipt.touched == 1 and strike.receipt.unit == "connections"
            assert works(resilience)

        def test_slicer(resilience):
            with resilience.redis.slicer(average_bytes=1, delay=0.01) as strike:
                with connect(resilience) as s:
                    s.sendall(b"PING\\r\\n")
                    first = s.recv(100)
                    assert len(first) < 7
                    rest = first
                    while len(rest) < 7:
                        rest += s.recv(100)
                    assert rest == b"+PONG\\r\\n"
            assert strike.receipt.touched == 7

        def test_slow_close(resilience):
            with resilience.redis.slow_close(seconds=0.3) as strike:
                with connect(resilience) as s:
                    s.sendall(b"QUIT\\r\\n")
                    assert s.recv(100) == b"+OK\\r\\n"
                    begin = time.monotonic()
                    assert s.recv(100) == b""
                    assert time.monotonic() - begin > 0.2
            assert strike.receipt.touched == 1

        def test_slow_accept(resilience):
            with connect(resilience) as old:
                with resilience.redis.slow_accept(seconds=1.5) as strike:
                    begin = time.monotonic()
                    assert ping(old) == b"+PONG\\r\\n"
                    assert time.monotonic() - begin < 1.5, "only new connections wait"
                    begin = time.monotonic()
                    assert works(resilience)
                    assert time.monotonic() - begin >= 1.45
            assert strike.receipt.touched == 1
            begin = time.monotonic()
            assert works(resilience)
            assert time.monotonic() - begin < 1.45

        def test_slow_accepts_overlap(resilience):
            with resilience.redis.slow_accept(seconds=0.4):
                with resilience.redis.slow_accept(seconds=0.01):
                    assert works(resilience)
                begin = time.monotonic()
                assert works(resilience)
                assert time.monotonic() - begin >= 0.39, "the heal of one strike ended the other"

        @pytest.mark.parametrize("wrong", [
            lambda r: r.redis.flap(unit="minutes"), lambda r: r.redis.flap(down=0), lambda r: r.redis.slicer(0),
            lambda r: r.redis.slicer(5, 6), lambda r: r.redis.limit_data(-1), lambda r: r.redis.slow_close(0),
            lambda r: r.redis.slow_accept(-1),
        ])
        def test_wrong_settings_are_refused_at_once(resilience, wrong):
            with pytest.raises(SetupError):
                wrong(resilience)
            assert works(resilience) and resilience.strikes == []
        """
    )
    project.runpytest_subprocess("--resilience-strict").assert_outcomes(passed=17)


def test_toxiproxy_python_uses_no_http_proxy_for_loopback(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    project.makepyfile(
        """
        def test_it(resilience, resilience_stack):
            assert resilience.redis.proxy.upstream
            resilience.redis.proxy.add_toxic(type="latency", attributes={"latency": 1})
            assert resilience_stack.toxiproxy.get_proxy(resilience.redis.proxy.name).toxics()
            resilience.redis.proxy.destroy_toxic("latency_downstream")
        """
    )
    project.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_a_refusal_is_counted_although_the_kernel_reports_it_late(project: pytest.Pytester) -> None:
    """A kernel thread of the processor on which the client closed its socket reports the refusal. A busy real-time process delays it."""
    project.makepyfile(
        client="""
        import os, socket, sys, time

        os.sched_setaffinity(0, {int(sys.argv[2])})
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        with socket.socket() as client:
            client.settimeout(5)
            code = client.connect_ex(("127.0.0.1", int(sys.argv[1])))
        os.write(1, b"%d\\n" % code)
        end = time.monotonic() + 0.15
        while time.monotonic() < end:
            pass
        """,
        test_late="""
        import errno, os, subprocess, sys, pytest

        @pytest.fixture
        def busy_processor():
            allowed = os.sched_getaffinity(0)
            if len(allowed) < 2:
                pytest.skip("one processor only")
            busy, *others = allowed
            os.sched_setaffinity(0, others)
            yield busy
            os.sched_setaffinity(0, allowed)

        def test_late(resilience, busy_processor):
            command = [sys.executable, "client.py", str(resilience.redis.port), str(busy_processor)]
            with resilience.redis.refuse() as strike:
                client = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                code = client.stdout.readline()
            touched = strike.receipt.touched
            _, error = client.communicate(timeout=20)
            if "PermissionError" in error:
                pytest.skip("this user may not run real-time processes")
            assert (code, error) == (f"{errno.ECONNREFUSED}\\n", "")
            assert touched == 1
        """,
    )
    result = project.runpytest_subprocess("-rs")
    if result.parseoutcomes().get("skipped"):
        pytest.skip(result.stdout.str().rpartition("SKIPPED")[2].partition("\n")[0])
    result.assert_outcomes(passed=1)


def test_a_refusal_counts_for_the_strike_that_lasts(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import socket, pytest
        from pytest_resilience import eventually

        def is_refused(resilience):
            try:
                socket.create_connection((resilience.redis.host, resilience.redis.port), timeout=5).close()
            except ConnectionRefusedError:
                return True
            return False

        def test_refuse_before_flap(resilience):
            with resilience.redis.refuse() as refuse:
                assert is_refused(resilience)
            with resilience.redis.flap(down=3600, up=3600) as flap:
                assert is_refused(resilience)
                assert is_refused(resilience)
            assert (refuse.receipt.touched, flap.receipt.touched) == (1, 2)

        def test_refuse_in_a_pause_of_flap(resilience):
            with resilience.redis.flap(down=1, up=1, unit="connections"):
                assert is_refused(resilience)
                eventually(lambda: not is_refused(resilience), within=5)
                eventually(lambda: is_refused(resilience), within=5)
                with resilience.redis.refuse() as refuse:
                    assert is_refused(resilience)
                eventually(lambda: not is_refused(resilience), within=5)
                for _ in range(3):
                    eventually(lambda: is_refused(resilience), within=5)
            assert refuse.receipt.touched == 1
        """
    )
    project.runpytest_subprocess("--resilience-strict").assert_outcomes(passed=2)
