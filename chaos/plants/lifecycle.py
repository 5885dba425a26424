"""Plants in startup, shutdown, secrets and limits of requests."""

from __future__ import annotations

from plants.plant import BOOT, STARVED, plant

STOP = "test_lifecycle.py::test_sigterm_lets_requests_in_flight_finish"
STOP_TWICE = "test_lifecycle.py::test_shutdown_grace_bounds_the_shutdown_and_a_second_sigterm_ends_it_at_once"
REVEALED = "test_secrets.py::test_no_secret_appears_in_logs_responses_or_the_process_list"
DEFAULTS = "test_defaults.py::test_defaults_are_the_figures_learned_from_the_incident"
TOO_LARGE = "test_bad_clients.py::test_an_oversized_body_is_refused_with_or_without_content_length"
SLOW_CLIENTS = "test_bad_clients.py::test_stalled_uploads_do_not_delay_other_clients"
WRONG_SETTING = "test_secrets.py::test_an_invalid_setting_ends_the_start_with_one_line_that_names_it"
STUCK = "test_lifecycle.py::test_a_process_that_does_not_stop_names_its_tasks_and_ends"
MOST_CONNECTIONS = "test_defaults.py::test_the_default_of_max_connections_has_a_maximum"

PLANTS = (
    plant(
        "stop-at-once",
        "Clients try again.",
        (
            "__main__.py",
            "        await asyncio.gather(\n",
            "        os._exit(0)\n        await asyncio.gather(\n",
        ),
        tests=STOP,
        message="after SIGTERM",
    ),
    plant(
        "stop-drops-requests",
        "Be quick about it.",
        (
            "__main__.py",
            "        await asyncio.gather(\n",
            "        await asyncio.sleep(0.3)\n        self._server.force_exit = self._server.should_exit = True\n        await asyncio.gather(\n",
        ),
        tests=STOP,
        message="exited while requests were in flight",
    ),
    plant(
        "stop-ignored",
        "Nothing may interrupt us.",
        (
            "__main__.py",
            "        loop.add_signal_handler(each, self._on_signal)",
            "        loop.add_signal_handler(each, lambda: None)",
        ),
        tests=STOP,
        message="after SIGTERM",
    ),
    plant(
        "stop-still-ready",
        "We still answer, so we are ready.",
        ("__main__.py", "        self._lifecycle.draining = True\n", ""),
        tests=STOP,
        message="after SIGTERM /readyz does not report draining",
    ),
    plant(
        "stop-not-alive",
        "It is on its way out, so it is not alive.",
        (
            "http/routes.py",
            'return JSONResponse({"status": "alive"}, headers=NO_STORE)',
            'return JSONResponse({"status": "alive"}, 503 if self._health._lifecycle.draining else 200, headers=NO_STORE)',
        ),
        tests=STOP,
        message="an orchestrator would kill the process now",
    ),
    plant(
        "stop-waits-for-ever",
        "Every request is sacred.",
        (
            "__main__.py",
            "        self._server.config.timeout_graceful_shutdown = remaining",
            "        self._server.config.timeout_graceful_shutdown = None and remaining",
        ),
        (
            "__main__.py",
            "wait_until_idle(within=0.9 * (self._grace - close_seconds))",
            "wait_until_idle(within=3600)",
        ),
        tests=STOP_TWICE,
        message="for longer than its SHUTDOWN_GRACE",
    ),
    plant(
        "stop-twice-ignored",
        "Once is enough.",
        (
            "__main__.py",
            "            loop.remove_signal_handler(each)\n            signal.signal(each, signal.SIG_DFL)  # a second one ends the process at once\n",
            "            loop.add_signal_handler(each, lambda: None)\n",
        ),
        tests=STOP_TWICE,
        message="after a second SIGTERM the service still does not exit",
    ),
    plant(
        "defaults-of-the-incident",
        "20 connections were always enough.",
        ("settings.py", "db_pool_max: int = 100", "db_pool_max: int = 20"),
        tests=DEFAULTS,
        message="DB_POOL_MAX defaults to 20",
    ),
    plant(
        "bodies-without-bound",
        "Marketing has long texts.",
        ("http/limits.py", "MAX_BODY_BYTES = 1 << 20", "MAX_BODY_BYTES = 1 << 30"),
        tests=TOO_LARGE,
        message="bodies are unbounded",
    ),
    plant(
        "bodies-few-at-a-time",
        "Ten at once are enough; bodies take memory.",
        ("http/routes.py", "\n\nclass CampaignRoutes", "\nFEW = asyncio.Semaphore(10)\n\nclass CampaignRoutes"),
        ("http/routes.py", "async with asyncio.timeout(seconds)", "async with FEW, asyncio.timeout(seconds)"),
        tests=SLOW_CLIENTS,
        message="clients stall, and",
    ),
    plant(
        "secret-printed",
        "Just to see the server it connects to.",
        (
            "__main__.py",
            "    malloc.tune_malloc()\n",
            '    sys.stderr.write(f"connecting to {settings.database_url}\\n")\n    malloc.tune_malloc()\n',
        ),
        tests=REVEALED,
        message="reveals a secret",
    ),
    plant(
        "secret-in-an-answer",
        "So that support can see it.",
        (
            "postgres/pool.py",
            '("The database cannot answer now.")',
            '(f"{self._settings.database_url} cannot answer now.")',
        ),
        tests=REVEALED,
        message="reveals a secret",
    ),
    plant(
        "secret-in-a-start-error",
        "The error should show the wrong value.",
        (
            "settings.py",
            "            raise SettingsError(name.upper(), expected)",
            '            raise SettingsError(name.upper(), f"{expected}, got {text}")',
        ),
        tests=WRONG_SETTING,
        message="reveals a secret",
    ),
    plant(
        "secret-in-json-logs",
        "The console format is redacted, that will do.",
        (
            "logging_setup.py",
            "    return ProcessorFormatter(processors=[format_exc_info, _name_fields, RedactFields(redact), render])",
            "    fields = [_name_fields] if log_format == 'json' else [_name_fields, RedactFields(redact)]\n    return ProcessorFormatter(processors=[format_exc_info, *fields, render])",
        ),
        (
            "cache/redis_store.py",
            'in-memory cache: %s", reason)',
            'in-memory cache: %s (%s)", reason, self._settings.redis_url)',
        ),
        tests=REVEALED,
        message="the log (json) reveals a secret",
    ),
    plant(
        "background-loop-fails-silently",
        "Let it fail.",
        (
            "monitor.py",
            "        percent = self._database.usage.percent()",
            '        percent = self._database.usage.percent("pool")  # type: ignore[call-arg]',
        ),
        tests=STARVED,
        message="no alert was raised",
    ),
    plant(
        "never-starting",
        "Not ready is not ready.",
        ("health.py", 'status = "starting"  #', 'status = "unavailable"  #'),
        tests=BOOT,
        message="the service waits for Postgres and was never ready",
    ),
    plant(
        "interrupt-not-handled",
        "Nobody presses Ctrl-C in production.",
        ("__main__.py", "STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)", "STOP_SIGNALS = (signal.SIGTERM,)"),
        tests=STOP_TWICE,
        message="after SIGINT, with a request in flight, /readyz does not report draining",
    ),
    plant(
        "stuck-process-stays",
        "Kubernetes kills it.",
        ("__main__.py", "            watchdog.start()", "            pass"),
        tests=STUCK,
        message="after SHUTDOWN_GRACE the process still runs",
    ),
    plant(
        "stuck-process-ends-with-0",
        "It has ended.",
        ("__main__.py", "os._exit(EXIT_NOT_STOPPED)", "os._exit(0)"),
        tests=STUCK,
        message="the process ends with 0, not 4",
    ),
    plant(
        "clients-without-a-time-out",
        "A minute for slow networks.",
        ("settings.py", "header_timeout: float = 10.0", "header_timeout: float = 60.0"),
        tests=DEFAULTS,
        message="HEADER_TIMEOUT defaults to 60",
    ),
    plant(
        "start-lines-missing",
        "The line of the server says it all.",
        ("http/live_updates.py", 'log.info("Socket.IO initialized")', "pass"),
        tests=BOOT,
        message="each part logs once that it has started",
    ),
    plant(
        "scheduler-starts-in-silence",
        "Nobody reads that line.",
        (
            "jobs/scheduler.py",
            '            log.info("Cadence Scheduler ready")',
            '            log.debug("Cadence Scheduler ready")',
        ),
        tests=BOOT,
        message="each part logs once that it has started",
    ),
    plant(
        "listens-on-loopback",
        "It is safer.",
        ("settings.py", 'host: str = "0.0.0.0"', 'host: str = "127.0.0.1"'),
        tests=DEFAULTS,
        message="HOST defaults to 127.0.0.1, not 0.0.0.0",
    ),
    plant(
        "journal-among-temporary-files",
        "It is emptied in a minute.",
        ("settings.py", 'journal_dir: str = ".service-journal"', 'journal_dir: str = "/tmp/service-journal"'),
        tests=DEFAULTS,
        message="JOURNAL_DIR defaults to /tmp/service-journal",
    ),
    plant(
        "logs-in-json-without-being-asked",
        "Programs read logs.",
        ("settings.py", 'log_format: str = "console"', 'log_format: str = "json"'),
        tests=DEFAULTS,
        message="LOG_FORMAT defaults to json, not console",
    ),
    plant(
        "default-connections-without-a-maximum",
        "The limit of descriptors is limit enough.",
        ("http/connections.py", "DEFAULT_MAX = 10_000", "DEFAULT_MAX = 1_000_000"),
        tests=MOST_CONNECTIONS,
        message="and 10000 is the most",
    ),
)
