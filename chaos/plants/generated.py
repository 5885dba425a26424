"""Plants that generated tests search for. Most of them show only in some order of faults and operations."""

from __future__ import annotations

from plants.plant import plant

ANYTHING = "test_anything_goes.py::test_dependencies_may_fail_in_any_way_and_order"
UNREADY = "test_postgres_gone.py::test_readyz_is_at_most_one_second_old_even_without_traffic"

PLANTS = (
    plant(
        "version-checked-before-the-change",
        "First see whether it is the right version, then change it.",
        (
            "postgres/campaigns.py",
            "        row = await self._database.write(\n            sql, campaign_id, versions, *",
            "        if versions is not None:\n            found = await self.get(campaign_id)\n            if found is None or found.version not in versions:\n                return None\n        row = await self._database.write(\n            sql, campaign_id, None, *",
        ),
        tests=ANYTHING,
        message="linearizable",
    ),
    plant(
        "redis-probed-without-a-pause",
        "The sooner it is back, the better.",
        ("cache/circuit_breaker.py", "        return longest * (0.5 + 0.5 * self._random())", "        return 0.0"),
        tests=ANYTHING,
        message="connections to Redis were opened",
    ),
    plant(
        "ready-late-after-an-outage",
        "A server that is down needs rest.",
        ("postgres/monitor.py", "INTERVAL_DOWN = 0.2", "INTERVAL_DOWN = 10.0"),
        tests=ANYTHING,
        message="the readiness path answers 503",
    ),
    plant(
        "ready-whatever-postgres-does",
        "Reads come from the cache, so stay in the load balancer.",
        ("health.py", '        ready = postgres == "up" and not', "        ready = not"),
        tests=UNREADY,
        message="/readyz still reports ready",
    ),
)
