"""Plants in the way a shutdown is announced."""

from __future__ import annotations

from plants.plant import plant

IDLE = "test_shutdown.py::test_an_idle_service_reports_draining_before_it_refuses_connections"
BUSY = "test_shutdown.py::test_requests_in_flight_get_the_shutdown_grace_while_readyz_reports_draining"

PLANTS = (
    plant(
        "stop-refuses-at-once",
        "There is nothing left to do.",
        ("__main__.py", "            asyncio.sleep(min(DRAIN_NOTICE, self._grace / 4)),\n", ""),
        tests=IDLE,
        message="an idle service refuses connections",
    ),
    plant(
        "stop-announced-too-briefly",
        "Kubernetes knows of it from its API.",
        ("__main__.py", "DRAIN_NOTICE = 2.0", "DRAIN_NOTICE = 0.3"),
        tests=IDLE,
        message="a load balancer has",
    ),
    plant(
        "stop-refuses-new-requests",
        "We are on our way out.",
        (
            "http/load_shedding.py",
            '        if self._guard.refusing and scope["path"] not in ESSENTIAL_PATHS:',
            '        if (self._guard.refusing or self._lifecycle.draining) and scope["path"] not in ESSENTIAL_PATHS:',
        ),
        tests=IDLE,
        message="a request that is sent while the service drains gets 503",
    ),
    plant(
        "stop-ready-until-the-end",
        "It still works.",
        ("__main__.py", "        self._lifecycle.draining = True\n", ""),
        (
            "__main__.py",
            "        self._server.should_exit = True\n",
            "        self._lifecycle.draining = self._server.should_exit = True\n",
        ),
        tests=IDLE,
        message="an idle service reports ready until it refuses connections",
    ),
    plant(
        "stop-a-quarter-of-the-grace",
        "A client that waits longer has gone.",
        ("__main__.py", "self._grace - close_seconds\n", "self._grace / 4\n"),
        (
            "__main__.py",
            "wait_until_idle(within=0.9 * (self._grace - close_seconds))",
            "wait_until_idle(within=self._grace / 4)",
        ),
        tests=BUSY,
        message="s of grace",
    ),
    plant(
        "stop-closes-while-requests-run",
        "Load balancers know by now.",
        (
            "__main__.py",
            "wait_until_idle(within=0.9 * (self._grace - close_seconds))",
            "wait_until_idle(within=0.3 * (self._grace - close_seconds))",
        ),
        tests=BUSY,
        message="the service refuses connections",
    ),
    plant(
        "stop-ready-again",
        "Reset the flag when the wait is over.",
        (
            "__main__.py",
            "        close_seconds = min(",
            "        asyncio.get_running_loop().call_later(1.0, setattr, self._lifecycle, 'draining', False)\n        close_seconds = min(",
        ),
        tests=BUSY,
        message="/readyz is 200",
    ),
    plant(
        "stop-announced-too-long",
        "A quarter of the grace, as for any grace.",
        ("__main__.py", "asyncio.sleep(min(DRAIN_NOTICE, self._grace / 4))", "asyncio.sleep(self._grace / 4)"),
        tests=IDLE,
        message="SHUTDOWN_GRACE is 60, and an idle service takes more than",
    ),
    plant(
        "metrics-draining-never",
        "It ends soon.",
        ("metrics.py", "_one(lambda s: s.lifecycle.draining)", "_one(lambda s: 0)"),
        tests=IDLE,
        message="the service drains, and the metrics do not report that",
    ),
    plant(
        "stop-three-quarters-of-a-long-grace",
        "A quarter is for closing, whatever the grace is.",
        ("__main__.py", "min(MAX_CLOSE_SECONDS, self._grace / 4)", "self._grace / 4"),
        tests=BUSY,
        message="an import that took 24 s was given up, with 30 s of grace",
    ),
    plant(
        "stop-refuses-imports",
        "An import takes long, and the process ends.",
        (
            "http/load_shedding.py",
            "        started = False\n",
            (
                '        if self._lifecycle.draining and scope["path"] == "/api/contacts/import":\n'
                '            await short_of("memory")(scope, receive, send)\n            return\n        started = False\n'
            ),
        ),
        tests=IDLE,
        message="are not served: {'an import': 503",
    ),
    plant(
        "stop-refuses-writes",
        "Reads are harmless.",
        (
            "http/load_shedding.py",
            "        started = False\n",
            (
                '        if self._lifecycle.draining and scope.get("method") in ("POST", "PUT", "DELETE"):\n'
                '            await short_of("memory")(scope, receive, send)\n            return\n        started = False\n'
            ),
        ),
        tests=IDLE,
        message="are not served: {'POST': 503",
    ),
    plant(
        "health-without-the-drain",
        "The process is healthy until its end.",
        ("health.py", '"nextReady": not self._lifecycle.draining,', '"nextReady": True,'),
        tests="test_shutdown.py::test_an_idle_service_reports_draining_before_it_refuses_connections",
        message="the service drains, and /health does not report that",
    ),
)
