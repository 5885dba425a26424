"""Plants in the health routes."""

from __future__ import annotations

from plants.plant import STARVED, plant

HEALTH = "test_health.py::test_health_answers_within_50_ms_under_every_fault"
TIME = "test_health.py::test_health_reports_the_current_time_and_is_not_cached"

PLANTS = (
    plant(
        "health-queries-postgres",
        "Healthy means that the database replies.",
        (
            "http/routes.py",
            "        return JSONResponse(self._health.health_body(), headers=NO_STORE)",
            '        await self._cleanup._database.read("SELECT 1")\n        return JSONResponse(self._health.health_body(), headers=NO_STORE)',
        ),
        tests=f"{HEALTH}[postgres hangs]",
        message="/health",
    ),
    plant(
        "health-takes-a-connection",
        "A slot that is free proves that the pool is well.",
        (
            "http/routes.py",
            "        return JSONResponse(self._health.health_body(), headers=NO_STORE)",
            "        slot = await self._cleanup._database._acquire_slot()\n        slot()\n        return JSONResponse(self._health.health_body(), headers=NO_STORE)",
        ),
        tests=STARVED,
        message="a health route waits for the pool",
    ),
    plant(
        "health-pings-redis",
        "Just a quick ping.",
        (
            "http/routes.py",
            "        return JSONResponse(self._health.health_body(), headers=NO_STORE)",
            "        from contextlib import suppress\n\n        from redis.asyncio import Redis\n\n        with suppress(Exception):\n            async with Redis.from_url(self._settings.redis_url or '', socket_timeout=1) as client:\n                await client.ping()\n        return JSONResponse(self._health.health_body(), headers=NO_STORE)",
        ),
        tests=f"{HEALTH}[redis hangs]",
        message="/health waits",
    ),
    plant(
        "health-waits-for-a-lock",
        "Wait until the monitor has finished its query.",
        (
            "http/routes.py",
            "        return JSONResponse(self._health.health_body(), headers=NO_STORE)",
            "        async with self._cleanup._postgres_monitor._lock:\n            return JSONResponse(self._health.health_body(), headers=NO_STORE)",
        ),
        tests=f"{HEALTH}[postgres hangs]",
        message="/health waits",
    ),
    plant(
        "health-with-an-extra-field",
        "One more field does no harm.",
        (
            "health.py",
            '            "status": "healthy",\n',
            '            "status": "healthy",\n            "version": "1.0",\n',
        ),
        tests=f"{HEALTH}[redis refuses]",
        message="/health has another form than documented",
    ),
    plant(
        "health-ready-as-text",
        'true or "true" makes no difference.',
        (
            "health.py",
            '"nextReady": not self._lifecycle.draining',
            '"nextReady": str(not self._lifecycle.draining).lower()',
        ),
        tests=f"{HEALTH}[redis refuses]",
        message="/health has another form than documented",
    ),
    plant(
        "health-uptime-in-milliseconds",
        "JavaScript counts in milliseconds.",
        (
            "health.py",
            "round(self._clock() - self._started_at, 9)",
            "round(1000 * (self._clock() - self._started_at), 9)",
        ),
        tests=TIME,
        message="uptime is in seconds",
    ),
    plant(
        "health-local-time",
        "The server runs on UTC anyway.",
        (
            "health.py",
            '    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")',
            '    return datetime.now().isoformat(timespec="milliseconds") + "Z"',
        ),
        tests=TIME,
        message="not the current time in UTC",
    ),
    plant(
        "health-remembered",
        "It is requested every second, so keep the response.",
        (
            "health.py",
            '        return {\n            "status": "healthy",',
            '        self._kept = getattr(self, "_kept", None) or {\n            "status": "healthy",',
        ),
        (
            "health.py",
            '            "uptime": round(self._clock() - self._started_at, 9),\n        }\n',
            '            "uptime": round(self._clock() - self._started_at, 9),\n        }\n        return self._kept\n',
        ),
        tests=TIME,
        message="/health returns an old response",
    ),
    plant(
        "health-may-be-stored",
        "Headers cost bytes.",
        ("http/routes.py", 'NO_STORE = {"Cache-Control": "no-store"}', "NO_STORE: dict[str, str] = {}"),
        tests=TIME,
        message="may be stored",
    ),
    plant(
        "alive-needs-postgres",
        "What is a service without its database?",
        (
            "http/routes.py",
            '        return JSONResponse({"status": "alive"}, headers=NO_STORE)',
            '        return JSONResponse({"status": "alive"}, 200 if self._health.readiness()[0] else 503, headers=NO_STORE)',
        ),
        tests=f"{HEALTH}[postgres killed]",
        message="/livez depends on something that is broken",
    ),
)
