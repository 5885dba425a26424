"""Plants in the service's use of Postgres."""

from __future__ import annotations

from plants.plant import BOOT, STARVED, plant

SERVER_FULL = "test_postgres_slow.py::test_a_server_without_free_connections_is_a_503_and_not_a_hang"
NO_ANSWER = "test_postgres_slow.py::test_a_reply_of_postgres_that_never_arrives_is_a_timely_503"
MALFORMED = "test_postgres_gone.py::test_an_answer_that_is_no_message_of_postgres_is_a_timely_503"
EPISODES = "test_pool.py::test_the_pool_alert_reports_average_use_once_per_episode"
IDLE = "test_pool.py::test_idle_connections_are_closed_and_reopened_when_needed"
BOOKS = "test_pool.py::test_failed_requests_leak_no_pool_connection"
ONCE = "test_postgres_gone.py::test_an_insert_whose_reply_was_lost_is_not_retried"
IN_DOUBT = "test_postgres_gone.py::test_no_old_value_is_served_after_a_write_with_unknown_outcome"
SILENT = "test_postgres_gone.py::test_a_pool_of_silent_connections_costs_one_statement_timeout_in_all"
READ_AGAIN = "test_postgres_gone.py::test_a_read_is_retried_when_its_session_is_terminated"
SAFE = "test_postgres_gone.py::test_writes_are_acknowledged_only_after_they_are_durable"
AWAY = "test_postgres_gone.py::test_cached_reads_continue_and_writes_get_503_while_postgres_is_down"
READY = "test_postgres_gone.py::test_readyz_is_at_most_one_second_old_even_without_traffic"
ONE_WINS = "test_contention.py::test_of_concurrent_writers_of_one_version_exactly_one_wins"
LACKING = "test_postgres_states.py::test_an_unusable_table_is_a_503_whose_cause_is_logged_once"
FORBIDDEN = "test_postgres_states.py::test_missing_privileges_are_a_503_whose_cause_is_logged_once"
READ_ONLY = "test_postgres_states.py::test_after_a_failover_to_a_read_only_server_reads_succeed_and_writes_are_503"
STARTING = "test_postgres_states.py::test_a_server_in_crash_recovery_is_a_503_and_logged_as_one_outage"
THRESHOLD = "test_pool.py::test_the_pool_alert_uses_the_configured_percentage"
EVERY_CHANGE = "test_contention.py::test_concurrent_updates_all_count_and_reads_are_monotonic"
REFUSED = "test_postgres_states.py::test_a_statement_that_postgres_refuses_is_a_503_and_logged_once_for_each_sqlstate"
ORDER = "test_pool.py::test_requests_get_connections_in_the_order_in_which_they_came"
WITHOUT_CONTACTS = (
    "test_postgres_states.py::test_without_rights_on_contacts_the_service_is_ready_and_imports_jobs_and_cadences_wait"
)
EACH_MINUTE = "test_postgres_states.py::test_a_statement_that_postgres_goes_on_to_refuse_is_logged_once_a_minute"
LEAKED = "test_pool.py::test_a_leaked_connection_is_closed_by_a_check_of_the_pool"

PLANTS = (
    plant(
        "pool-no-acquire-timeout",
        "All requests will get their turn.",
        (
            "postgres/pool.py",
            "            async with asyncio.timeout(seconds):\n                await self._slots.acquire(worker=worker)\n",
            "            await self._slots.acquire(worker=worker)\n",
        ),
        tests=STARVED,
        message="a request that finds the pool exhausted gets its 503 after",
    ),
    plant(
        "pool-unbounded",
        "Postgres will report an error when it is full.",
        ("postgres/pool.py", "ConnectionSlots(settings.db_pool_max,", "ConnectionSlots(1000,"),
        ("postgres/pool.py", "            max_size=self._settings.db_pool_max,", "            max_size=1000,"),
        tests=STARVED,
        message="connections at once; the pool has",
    ),
    plant(
        "pool-one-too-many",
        "One more does not matter.",
        ("postgres/pool.py", "ConnectionSlots(settings.db_pool_max,", "ConnectionSlots(settings.db_pool_max + 1,"),
        (
            "postgres/pool.py",
            "            max_size=self._settings.db_pool_max,",
            "            max_size=self._settings.db_pool_max + 1,",
        ),
        tests=STARVED,
        message="connections at once; the pool has",
    ),
    plant(
        "pool-two-too-few",
        "Keep some in reserve.",
        (
            "postgres/pool.py",
            "ConnectionSlots(settings.db_pool_max,",
            "ConnectionSlots(max(1, settings.db_pool_max - 2),",
        ),
        tests=f"{BOOKS}[refusing]",
        message="of the pool's",
    ),
    plant(
        "postgres-fault-is-500",
        "An error is an error.",
        (
            "postgres/pool.py",
            '            raise Unavailable("The database cannot answer now.") from error',
            "            raise",
        ),
        tests=f"{BOOKS}[refusing]",
        message="a dependency fault is 503, never",
    ),
    plant(
        "postgres-lock-timeout-is-500",
        "That can't happen.",
        (
            "postgres/pool.py",
            "        except UNAVAILABLE_ERRORS as error:\n            self._status.check_now(error)",
            "        except asyncpg.LockNotAvailableError:\n            raise\n        except UNAVAILABLE_ERRORS as error:\n            self._status.check_now(error)",
        ),
        tests=STARVED,
        message="a dependency fault is 503, never",
    ),
    plant(
        "postgres-full-is-500",
        "max_connections is high enough.",
        (
            "postgres/pool.py",
            "        except UNAVAILABLE_ERRORS as error:\n            self._status.check_now(error)",
            "        except asyncpg.TooManyConnectionsError:\n            raise\n        except UNAVAILABLE_ERRORS as error:\n            self._status.check_now(error)",
        ),
        tests=SERVER_FULL,
        message="500",
    ),
    plant(
        "errors-as-plain-json",
        "JSON is JSON.",
        ("http/problems.py", 'media_type = "application/problem+json"', 'media_type = "application/json"'),
        tests=BOOKS,
        message="an error is application/problem+json, not",
    ),
    plant(
        "postgres-retry-after-an-hour",
        "Clients should come back when it is quiet.",
        ("errors.py", "retry_after: float = 1.0", "retry_after: float = 3600.0"),
        tests="test_pool.py::test_failed_requests_leak_no_pool_connection",
        message="Retry-After is 3600 s",
    ),
    plant(
        "postgres-no-retry-after",
        "Clients ignore that header.",
        (
            "http/problems.py",
            "    return Problem(503, error.detail, retry_after=error.retry_after)",
            "    return Problem(503, error.detail)",
        ),
        tests=f"{BOOKS}[refusing]",
        message="a 503 has no Retry-After header",
    ),
    plant(
        "postgres-no-command-timeout",
        "Postgres has a statement_timeout.",
        ("postgres/connection.py", '        "command_timeout": settings.db_command_timeout,\n', ""),
        (
            "postgres/pool.py",
            "asyncio.timeout(min(self._settings.db_command_timeout, deadline - self._clock()))",
            "asyncio.timeout(None)",
        ),
        tests=NO_ANSWER,
        message="the sweep took its connection back",
    ),
    plant(
        "alert-never",
        "A fraction is the usual unit.",
        ("monitor.py", "self.pool_alert.check(round(percent, 2))", "self.pool_alert.check(percent / 100)"),
        tests=STARVED,
        message="no alert was raised",
    ),
    plant(
        "alert-every-check",
        "Operators should not forget it.",
        ("monitor.py", 'return "raised" if is_first else None', 'return "raised"'),
        tests=EPISODES,
        message="alerts for",
    ),
    plant(
        "alert-once-in-a-life",
        "Once is enough.",
        (
            "monitor.py",
            '            self.raised = False\n            return "resolved"',
            '            return "resolved"',
        ),
        tests=EPISODES,
        message="no alert was raised (episode 2)",
    ),
    plant(
        "alert-at-ninety-whatever-is-set",
        "No other threshold will be needed.",
        ("monitor.py", "if percent > self._threshold:", "if percent > 90.0:"),
        tests="test_pool.py::test_the_pool_alert_uses_the_configured_percentage",
        message="DB_POOL_ALERT_PERCENT is 50, and no alert was raised",
    ),
    plant(
        "alert-on-size",
        "The pool's size is at its maximum.",
        (
            "monitor.py",
            "        percent = self._database.usage.percent()",
            "        percent = 100 * self._database.size() / self._settings.db_pool_max",
        ),
        tests=EPISODES,
        message="one moment",
    ),
    plant(
        "alert-of-one-moment",
        "A sample is good enough.",
        (
            "monitor.py",
            "        percent = self._database.usage.percent()",
            "        percent = 100 * self._database.usage.in_use / self._settings.db_pool_max",
        ),
        tests=EPISODES,
        message="one moment",
    ),
    plant(
        "statement-limit-left-to-the-driver",
        "asyncpg has a command_timeout.",
        (
            "postgres/pool.py",
            "                async with asyncio.timeout(min(self._settings.db_command_timeout, deadline - self._clock())):\n",
            "                if True:\n",
        ),
        tests="test_postgres_slow.py::test_a_statement_ends_in_time_while_the_driver_looks_up_its_types",
        message="a statement took",
    ),
    plant(
        "pool-leaks-on-error",
        "After an error the connection is gone anyway.",
        (
            "postgres/pool.py",
            "        finally:\n            await self._release(checkout, deadline)",
            "        else:\n            await self._release(checkout, deadline)",
        ),
        tests=STARVED,
        message="the others are lost",
    ),
    plant(
        "pool-leaks-a-slot",
        "Without a connection there is nothing to give back.",
        (
            "postgres/pool.py",
            "        except BaseException:\n            release_slot()\n            raise",
            "        except BaseException:\n            raise",
        ),
        tests=f"{BOOKS}[refusing]",
        message="connections can be used: the others are lost",
    ),
    plant(
        "pool-idle-timeout-ignored",
        "Opening connections is expensive.",
        (
            "postgres/pool.py",
            "            max_inactive_connection_lifetime=self._settings.db_pool_idle_timeout,",
            "            max_inactive_connection_lifetime=0,",
        ),
        tests=IDLE,
        message="are not closed",
    ),
    plant(
        "read-given-up",
        "An error is an error.",
        (
            "postgres/pool.py",
            "        except ConnectionLost:\n            rows =",
            "        except ZeroDivisionError:\n            rows =",
        ),
        tests=READ_AGAIN,
        message="a read fails when its session is terminated",
    ),
    plant(
        "pool-trusts-the-neighbours",
        "One dead connection does not affect the others.",
        (
            "postgres/pool.py",
            "            for holder in self._pool._holders:\n                if holder.is_idle() and holder.is_connected():\n                    holder.terminate()",
            "            pass",
        ),
        tests=SILENT,
        message="neighbours were trusted nevertheless",
    ),
    plant(
        "malformed-answer-is-500",
        "asyncpg raises errors of asyncpg.",
        (
            "postgres/connection.py",
            "    except Exception as error:\n        raise UnreadableAnswerError(",
            "    except ReferenceError as error:\n        raise UnreadableAnswerError(",
        ),
        tests=f"{MALFORMED}[prepared]",
        message="a driver that cannot read an answer is a dependency fault",
    ),
    plant(
        "asyncpg-failure-unhandled",
        "asyncio logs such errors anyway.",
        ("__main__.py", "    elif asyncpg_failed(context):", "    elif False:"),
        tests=f"{MALFORMED}[new]",
        message="an unhandled error reached the log",
    ),
    plant(
        "statements-go-on",
        "We have a limit on our side.",
        (
            "postgres/connection.py",
            '            "statement_timeout": str(int(milliseconds * 0.9)),\n            "lock_timeout": str(int(milliseconds * 0.6)),\n',
            "",
        ),
        tests=STARVED,
        message="their statements still wait in Postgres",
    ),
    plant(
        "write-in-doubt-forgotten",
        "It was an error, so nothing has changed.",
        (
            "cache/cache.py",
            "        self.memory.mark_uncertain(key)\n        self._pending.add(key, None)\n",
            "        return\n",
        ),
        tests=IN_DOUBT,
        message="still serves the old value",
    ),
    plant(
        "write-tried-again",
        "Lost connections deserve a second try.",
        (
            "postgres/pool.py",
            '        row: Mapping[str, Any] | None = await self._run("fetchrow", sql, args, self._deadline())\n',
            '        try:\n            row: Mapping[str, Any] | None = await self._run("fetchrow", sql, args, self._deadline())\n        except ConnectionLost:\n            row = await self._run("fetchrow", sql, args, self._deadline())\n',
        ),
        tests=ONCE,
        message="an INSERT was retried",
    ),
    plant(
        "write-acknowledged-early",
        "Deleting can happen in the background.",
        (
            "http/routes.py",
            "            created = await self._campaigns.delete(campaign_id, allowed_versions(_if_match(request)))",
            "            self._later = asyncio.ensure_future(self._campaigns.delete(campaign_id, None))\n            created: int | None = 1",
        ),
        tests=SAFE,
        message="acknowledged before it happened",
    ),
    plant(
        "write-behind",
        "The row is known already; Postgres can catch up.",
        (
            "postgres/campaigns.py",
            '        row = await self._database.write(\n            sql, campaign_id, versions, *(fields.get(n) for n in ("name", "message", "status"))\n        )\n        return None if row is None else _campaign(row)',
            '        import asyncio\n        from dataclasses import replace\n\n        write = self._database.write(sql, campaign_id, versions, *(fields.get(n) for n in ("name", "message", "status")))\n        old = await self.get(campaign_id)\n        self._behind = asyncio.ensure_future(write)\n        return old and replace(old, version=old.version + 1, **fields)',
        ),
        tests=SAFE,
        message="acknowledged",
    ),
    plant(
        "commit-not-flushed",
        "synchronous_commit=off is so much faster.",
        (
            "postgres/connection.py",
            '            "application_name": application_name,\n',
            '            "application_name": application_name,\n            "synchronous_commit": "off",\n',
        ),
        tests=SAFE,
        message="synchronous_commit",
    ),
    plant(
        "postgres-needed-to-start",
        "A few warm connections.",
        ("postgres/pool.py", "            min_size=0,", "            min_size=2,"),
        tests=BOOT,
        message="the service exited",
    ),
    plant(
        "readiness-late",
        "Postgres may just be slow for a while.",
        ("postgres/monitor.py", "TIMEOUT = 0.6", "TIMEOUT = 10.0"),
        tests=READY,
        message="/readyz still reports ready",
    ),
    plant(
        "readiness-unconditional",
        "The load balancer should not remove the instance.",
        ("health.py", '        return ready, {"status": status', '        return True, {"status": status'),
        tests=AWAY,
        message="/readyz still reports ready",
    ),
    plant(
        "lost-update",
        "Look first, then write.",
        (
            "postgres/campaigns.py",
            "             WHERE id = $1 AND version = ANY(coalesce($2::bigint[], ARRAY[version::bigint]))\n         RETURNING id",
            "             WHERE id = $1 AND coalesce($2::bigint[], ARRAY[1]) IS NOT NULL\n         RETURNING id",
        ),
        (
            "postgres/campaigns.py",
            "        row = await self._database.write(\n            sql, campaign_id, versions",
            "        seen = await self.get(campaign_id)\n        if seen is None or (versions is not None and seen.version not in versions):\n            return None\n        row = await self._database.write(\n            sql, campaign_id, versions",
        ),
        tests=ONE_WINS,
        message="the others' changes are lost",
    ),
    plant(
        "if-match-ignored",
        "The last one wins.",
        (
            "http/routes.py",
            "self._campaigns.update(campaign_id, fields, allowed_versions(if_match))",
            "self._campaigns.update(campaign_id, fields, None)",
        ),
        tests=ONE_WINS,
        message="the others' changes are lost",
    ),
    plant(
        "version-stands-still",
        "updated_at has the same information.",
        ("postgres/campaigns.py", "version = version + 1, updated_at", "version = version, updated_at"),
        tests=EVERY_CHANGE,
        message="changes were lost",
    ),
    plant(
        "postgres-forbidden-is-500",
        "Missing privileges are a mistake of the operators.",
        (
            "postgres/pool.py",
            "        except UNAVAILABLE_ERRORS as error:\n            self._status.check_now(error)",
            "        except (asyncpg.InsufficientPrivilegeError, asyncpg.SequenceGeneratorLimitExceededError):\n            raise\n        except UNAVAILABLE_ERRORS as error:\n            self._status.check_now(error)",
        ),
        tests=f"{LACKING}[ids]",
        message="a dependency fault is 503, never",
    ),
    plant(
        "ready-without-rights",
        "It answers, so it is up.",
        ("postgres/monitor.py", '    if found["no_rights"]:', '    if found["no_rights"] is False:'),
        tests=FORBIDDEN,
        message="/readyz does not report 'no rights'",
    ),
    plant(
        "ready-without-a-column",
        "Migrations are the business of operators.",
        ("postgres/monitor.py", '    if found["wrong"]:', "    if False:"),
        tests=f"{LACKING}[a column]",
        message="/readyz does not report 'wrong columns'",
    ),
    plant(
        "ready-without-ids",
        "Nine quintillion will do.",
        ("postgres/monitor.py", '    if found["no_ids_left"]:', "    if False:"),
        tests=f"{LACKING}[ids]",
        message="/readyz does not report 'no ids left'",
    ),
    plant(
        "ready-although-read-only",
        "Reads still work.",
        ("postgres/monitor.py", '    if found["read_only"]:', "    if False:"),
        tests=READ_ONLY,
        message="Postgres is read-only, and /readyz does not report that",
    ),
    plant(
        "read-only-is-500",
        "Writes do not go to a standby.",
        (
            "postgres/pool.py",
            "        except UNAVAILABLE_ERRORS as error:\n            self._status.check_now(error)",
            "        except asyncpg.ReadOnlySQLTransactionError:\n            raise\n        except UNAVAILABLE_ERRORS as error:\n            self._status.check_now(error)",
        ),
        tests=READ_ONLY,
        message="a dependency fault is 503, never",
    ),
    plant(
        "read-only-is-down",
        "Not ready is not ready.",
        ("postgres/monitor.py", 'state, state != "down"', 'state, state == "up"'),
        (
            "cache/cache.py",
            "            entry = await load()\n        except Unavailable:",
            "            if not self._source_is_up():\n                raise Unavailable('away')\n            entry = await load()\n        except Unavailable:",
        ),
        tests=READ_ONLY,
        message="Postgres can be read",
    ),
    plant(
        "cause-in-every-line",
        "There is never too much in a log.",
        ("postgres/monitor.py", "        if report != self._last_report:", "        if True:"),
        tests=(f"{LACKING}[a column]", FORBIDDEN),
        message="one line reports it, not",
    ),
    plant(
        "cause-not-named",
        "It is in the log of Postgres.",
        ("postgres/monitor.py", 'needs it: %s: %s", state, detail)', 'needs it: %s", state)'),
        tests=(f"{LACKING}[a column]", FORBIDDEN),
        message="the line does not name",
    ),
    plant(
        "starting-up-is-500",
        "It is not down, it is starting.",
        (
            "postgres/pool.py",
            "        except UNAVAILABLE_ERRORS as error:\n            self._status.check_now(error)",
            "        except asyncpg.CannotConnectNowError:\n            raise\n        except UNAVAILABLE_ERRORS as error:\n            self._status.check_now(error)",
        ),
        tests=STARTING,
        message="a server in recovery is 503, never",
    ),
    plant(
        "outage-line-per-reason",
        "Each reason is news.",
        ("postgres/monitor.py", 'report = (state, "" if state == "down" else detail)', "report = (state, detail)"),
        (
            "postgres/monitor.py",
            'state, detail = "down", describe_error(error)',
            'state, detail = "down", f"{describe_error(error)} at {self._clock()}"',
        ),
        tests=STARTING,
        message="lines for one outage",
    ),
    plant(
        "alert-never-resolved",
        "No news is good news.",
        ("monitor.py", '        elif change == "resolved":\n', "        elif not change:\n"),
        ("monitor.py", "            pool_log.info(self.pool_alert.resolved_line(percent))\n", "            pass\n"),
        tests=THRESHOLD,
        message="the log does not report the alert as resolved",
    ),
    plant(
        "alert-over-each-check",
        "Good news can be repeated.",
        (
            "monitor.py",
            "        if self._calm_checks >= CALM_CHECKS and self.raised:",
            "        if self._calm_checks >= CALM_CHECKS:",
        ),
        tests=THRESHOLD,
        message="one line for the end of an episode, not",
    ),
    plant(
        "alert-over-without-a-value",
        "Over is over.",
        (
            "monitor.py",
            "pool_log.info(self.pool_alert.resolved_line(percent))",
            'pool_log.info("RESOLVED: database_pool_exhausted")',
        ),
        tests=THRESHOLD,
        message="the line that ends an episode has no value",
    ),
    plant(
        "starting-in-every-outage",
        "The service waits for Postgres.",
        ("health.py", "not refusing and not self._was_ready:", "not refusing:"),
        tests=AWAY,
        message="the service was ready, Postgres is down, and /readyz reports starting",
    ),
    plant(
        "refusals-not-logged",
        "The client has the 503.",
        ("postgres/monitor.py", '        if state == "up" and statement_error is not None:', "        if False:"),
        tests=REFUSED,
        message="and no line of the log names it",
    ),
    plant(
        "refusal-line-for-each",
        "There is never too much in a log.",
        ("postgres/monitor.py", "LOG_AGAIN_AFTER = 60.0", "LOG_AGAIN_AFTER = 0.0"),
        tests=REFUSED,
        message="each SQLSTATE has one line a minute",
    ),
    plant(
        "first-refusal-only",
        "One line a minute.",
        (
            "postgres/monitor.py",
            "self._logged_at.get(state, -LOG_AGAIN_AFTER)",
            "max(self._logged_at.values(), default=-LOG_AGAIN_AFTER)",
        ),
        tests=REFUSED,
        message="and no line of the log names it",
    ),
    plant(
        "alert-over-after-one-check",
        "One low value will do.",
        ("monitor.py", "CALM_CHECKS = 2", "CALM_CHECKS = 1"),
        tests=THRESHOLD,
        message="after one low check: two are needed",
    ),
    plant(
        "pool-last-come-first-served",
        "The newest request has the most time left.",
        ("postgres/slots.py", "        waiter = waiters.popleft()", "        waiter = waiters.pop()"),
        tests=ORDER,
        message="and were served in the order",
    ),
    plant(
        "contacts-needed-to-be-ready",
        "Half a service is none.",
        (
            "postgres/contacts.py",
            '        Column("phone", "SE", inserted=True, updated=True),\n    ),\n',
            '        Column("phone", "SE", inserted=True, updated=True),\n    ),\n    essential=True,\n',
        ),
        tests=WITHOUT_CONTACTS,
        message="and /readyz does not report ready",
    ),
    plant(
        "lack-of-contacts-not-logged",
        "Campaigns are served, so nothing is wrong.",
        (
            "postgres/monitor.py",
            '                log.warning("Postgres lacks what contacts',
            '                log.debug("Postgres lacks what contacts',
        ),
        tests=WITHOUT_CONTACTS,
        message="costs these lines of the log, not one",
    ),
    plant(
        "lack-of-contacts-in-each-check",
        "There is never too much in a log.",
        ("postgres/monitor.py", "        if lack != self._last_lack:\n", "        if lack or self._last_lack:\n"),
        tests=WITHOUT_CONTACTS,
        message="costs these lines of the log, not one",
    ),
    plant(
        "job-without-rights-is-a-dead-letter",
        "No rights is no outage.",
        (
            "jobs/worker.py",
            "        if isinstance(error, Unavailable) and not isinstance(error, GatewayFailed):\n",
            '        if isinstance(error, Unavailable) and getattr(error.__cause__, "sqlstate", None) != "42501":\n',
        ),
        tests=WITHOUT_CONTACTS,
        message="a job lacks rights in Postgres, and it does not wait",
    ),
    plant(
        "more-lacks-logged-once-in-a-life",
        "An operator knows by then.",
        (
            "postgres/monitor.py",
            "        if lack != self._last_lack:\n",
            "        if self._last_lack == 'nothing':\n            return\n        if lack != self._last_lack:\n",
        ),
        (
            "postgres/monitor.py",
            "            self._last_lack = lack\n",
            "            self._last_lack = lack or 'nothing'\n",
        ),
        tests=WITHOUT_CONTACTS,
        message="a table lacks rights a second time, and no line of the log reports that",
    ),
    plant(
        "metrics-alerts-counted-once",
        "There was one.",
        ("monitor.py", "self.episodes += is_first", "self.episodes |= is_first"),
        tests=EPISODES,
        message="2 episodes of the alert, and the metrics count 1",
    ),
    plant(
        "metrics-average-in-percent",
        "The log has it in percent.",
        ("metrics.py", "_one(lambda s: s.pool_alert.percent / 100)", "_one(lambda s: s.pool_alert.percent)"),
        tests=THRESHOLD,
        message="three of four connections are in use, and the metrics report",
    ),
    plant(
        "metrics-average-of-the-last-alert",
        "That is the interesting one.",
        ("monitor.py", "        self.percent = percent\n", "        self.percent = max(self.percent, percent)\n"),
        tests=THRESHOLD,
        message="the pool is idle again, and the metrics report an average of",
    ),
    plant(
        "metrics-pool-size-is-its-maximum",
        "The size of the pool is DB_POOL_MAX.",
        ("metrics.py", "_one(lambda s: s.database.size())", "_one(lambda s: s.database.usage.size)"),
        tests=IDLE,
        message="no connection of the pool is open, and the metrics report 20",
    ),
    plant(
        "cause-logged-once-in-a-life",
        "An operator knows by then.",
        (
            "postgres/monitor.py",
            '                log.warning("Postgres is not as the service needs it: %s: %s", state, detail)',
            (
                "                if detail not in self._logged_at:\n"
                '                    log.warning("Postgres is not as the service needs it: %s: %s", state, detail)\n'
                "                self._logged_at[detail] = 0.0"
            ),
        ),
        tests=FORBIDDEN,
        message="Postgres lacks the same right a second time",
    ),
    plant(
        "refusals-logged-once-in-a-life",
        "An operator knows by then.",
        ("postgres/monitor.py", "LOG_AGAIN_AFTER = 60.0", "LOG_AGAIN_AFTER = 86_400.0"),
        tests=EACH_MINUTE,
        message="after a minute no second line of the log names it",
    ),
    plant(
        "refusals-logged-six-times-a-minute",
        "A minute is long.",
        ("postgres/monitor.py", "LOG_AGAIN_AFTER = 60.0", "LOG_AGAIN_AFTER = 10.0"),
        tests=EACH_MINUTE,
        message="minutes have two lines of the log",
    ),
    plant(
        "leaked-connections-stay",
        "A connection that is in use is in use.",
        ("postgres/pool.py", "        for checkout in self._overdue():\n", "        for checkout in ():\n"),
        tests=LEAKED,
        message="a connection is leaked, and the checks of the pool do not give it back",
    ),
    plant(
        "leaked-connections-closed-and-their-slots-lost",
        "The connection is closed.",
        (
            "postgres/pool.py",
            "            self._checkouts.discard(checkout)\n            checkout.release_slot()\n            closed_pids",
            "            self._checkouts.discard(checkout)\n            closed_pids",
        ),
        tests=LEAKED,
        message="a connection is leaked, and the checks of the pool do not give it back",
    ),
    plant(
        "leaked-connections-closed-in-silence",
        "They are closed, so it is no news.",
        ("postgres/cleanup.py", "        if leaked or terminated:\n", "        if terminated and not leaked:\n"),
        tests=LEAKED,
        message="a check of the pool has closed a leaked connection, and no line of the log reports it",
    ),
)
