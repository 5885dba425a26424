"""Named incidents. A phase lasts as long as a turn of the loop and is healed at its end."""

from __future__ import annotations

import pytest


def test_phases_strike_and_heal(shop: pytest.Pytester) -> None:
    shop.makepyfile(
        """
        import asyncio, asyncpg, pytest, redis, sys
        from pytest_resilience import eventually, incidents

        def answers(service, path):
            return service.get(path).status_code

        def test_redis_failover(resilience):
            service, seen = resilience.service, {}
            for phase in incidents.redis_failover(resilience):
                seen[phase] = answers(service, "/redis")
            assert seen == {"gone": 503, "stale": 503, "back": 200}

        def test_postgres_restart(resilience):
            service, seen = resilience.service, {}
            with asyncio.Runner() as runner:
                connection = runner.run(asyncpg.connect(resilience.postgres.url))
                for phase in incidents.postgres_restart(resilience):
                    seen[phase] = answers(service, "/orders")
                connection.terminate()
            assert seen == {"down": 503, "back": 200}

        def test_silent_nat_drop(resilience):
            with redis.Redis.from_url(resilience.redis.url, socket_timeout=0.3, retry=None) as client:
                client.ping()
                seen = {}
                for phase in incidents.silent_nat_drop(resilience, "redis"):
                    seen[phase] = answers(resilience.service, "/memory")
                    if phase == "dropped":
                        with pytest.raises(redis.TimeoutError):
                            client.ping()
                        client.connection_pool.disconnect()
                        assert client.ping(), "new connections work"
            assert seen == {"dropped": 200, "back": 200}

        def test_pool_leak(resilience):
            seen = {phase: answers(resilience.service, "/orders") for phase in incidents.pool_leak(resilience, left=(10, 0))}
            assert seen == {"10 left": 200, "0 left": 503, "back": 200}

        @pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA of another process is Linux'")
        def test_oom_kill(resilience):
            pid = resilience.service.process.pid
            assert [phase for phase in incidents.oom_kill(resilience)] == ["short", "killed", "back"]
            assert resilience.service.process.pid != pid
            assert answers(resilience.service, "/memory") == 200

        def test_leaving_the_loop_heals(resilience):
            with pytest.raises(KeyError):
                for phase in incidents.redis_failover(resilience):
                    assert answers(resilience.service, "/redis") == 503
                    raise KeyError(phase)
            eventually(lambda: redis.Redis.from_url(resilience.redis.url).ping(), within=2)
        """
    )
    outcomes = shop.runpytest_subprocess().parseoutcomes()
    assert outcomes.pop("passed") + outcomes.pop("vacuous", 0) == 6, (
        "the test of oom_kill sends no request to the service under memory pressure"
    )
    assert not outcomes
