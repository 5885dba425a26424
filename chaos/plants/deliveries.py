"""Plants in the campaign processor, the gateway and the connections of workers."""

from __future__ import annotations

from plants.plant import plant

KILLED = "test_deliveries.py::test_a_campaign_reaches_each_of_2000_contacts_once_although_its_process_is_killed"
SUSPENDED = "test_deliveries.py::test_a_process_that_was_suspended_and_its_successor_deliver_nothing_twice"
OUTAGE = "test_deliveries.py::test_an_outage_of_postgres_in_the_middle_of_a_batch_loses_and_doubles_no_delivery"
HANGS = "test_deliveries.py::test_a_gateway_that_hangs_leaves_the_job_in_the_dead_letter_queue_until_it_is_retried"
SIGTERM = "test_deliveries.py::test_sigterm_returns_the_job_after_the_batch_under_way"
LAST = "test_deliveries.py::test_jobs_leave_the_last_connection_of_the_pool_to_requests"
STATUS = "test_deliveries.py::test_no_reader_sees_an_older_status_although_redis_fails_meanwhile"
DELETED = "test_deliveries.py::test_a_campaign_that_is_deleted_meanwhile_ends_its_job_and_its_deliveries_are_removed"
GATEWAY = "test_deliveries.py::test_the_gateway_gets_all_of_a_batch_with_a_key_and_the_credentials"
ONE = "test_deliveries.py::test_in_a_pool_of_one_connection_a_request_goes_before_a_job"
ADDED = "test_deliveries.py::test_a_contact_that_is_added_while_a_campaign_is_sent_gets_it"
DURATION = (
    "test_deliveries.py::test_a_batch_may_take_the_time_of_a_statement_and_of_the_gateway_and_then_postgres_ends_it"
)

SEND = "                await self._gateway.send(Batch(job, step.name, step.message, recipients))\n"
RECORD = "                await record_deliveries(transaction, job.campaign_id, job.step, [each.id for each in recipients])\n"
BY_HAND = "test_deliveries.py::test_a_campaign_can_be_sent_by_hand_while_a_step_of_its_cadence_is_sent"
SENT_BEFORE = "test_deliveries.py::test_a_campaign_that_its_cadence_has_sent_is_sending_while_it_is_sent_by_hand"
GATEWAY_LOGGED = "test_deliveries.py::test_each_failure_of_the_gateway_is_logged_at_its_begin_and_at_its_end"

PLANTS = (
    plant(
        "deliveries-without-a-key",
        "The lock makes sure of that already.",
        ("postgres/deliveries.py", "PRIMARY KEY (campaign_id, step, contact_id)", "CHECK (step >= 0)"),
        tests=KILLED,
        message="DID NOT RAISE",
    ),
    plant(
        "deliveries-committed-before-the-gateway",
        "No transaction should wait for the network.",
        (
            "jobs/processor.py",
            SEND + RECORD,
            RECORD
            + "        if recipients:\n            await self._gateway.send(Batch(job, step.name, step.message, recipients))\n",
        ),
        tests=KILLED,
        message="the gateway has accepted",
    ),
    plant(
        "deliveries-resume-from-an-offset",
        "So many are done, so continue behind them.",
        (
            "postgres/deliveries.py",
            "           AND NOT EXISTS (SELECT FROM deliveries\n                            WHERE campaign_id = $1 AND step = $2 AND contact_id = contacts.id AND contact_id > $3)\n         ORDER BY id LIMIT $4",
            "         ORDER BY id LIMIT $4\n        OFFSET (SELECT count(*) FROM deliveries WHERE campaign_id = $1 AND step = $2 AND contact_id > $3)",
        ),
        tests=KILLED,
        message="contacts have a delivery",
    ),
    plant(
        "job-starts-again-from-the-first-contact",
        "Better twice than never.",
        (
            "postgres/deliveries.py",
            "           AND NOT EXISTS (SELECT FROM deliveries\n                            WHERE campaign_id = $1 AND step = $2 AND contact_id = contacts.id AND contact_id > $3)\n",
            "           AND $1::bigint + $2::bigint > 0\n",
        ),
        (
            "postgres/deliveries.py",
            "SELECT $1, $2, unnest($3::bigint[])",
            "SELECT $1, $2, unnest($3::bigint[]) ON CONFLICT DO NOTHING",
        ),
        ("jobs/processor.py", "            elif after == BEFORE_ALL:", "            elif True:"),
        tests=KILLED,
        message="messages were sent again",
    ),
    plant(
        "steps-without-a-lock",
        "The queue gives a job to one process only.",
        ("postgres/deliveries.py", "pg_try_advisory_xact_lock(hashtextextended($2, 0))", "$2::text IS NOT NULL"),
        tests=SUSPENDED,
        message="two processes sent the same",
    ),
    plant(
        "batch-without-a-transaction",
        "Each statement is a transaction anyway.",
        ("postgres/pool.py", '                await connection.execute("BEGIN")\n', ""),
        ("postgres/pool.py", '                await connection.execute("COMMIT")\n', ""),
        tests=SUSPENDED,
        message="two processes sent the same",
    ),
    plant(
        "batches-with-a-random-key",
        "A key must be unique.",
        ("jobs/gateway.py", '("Idempotency-Key", batch.id)', '("Idempotency-Key", __import__("uuid").uuid4().hex)'),
        tests=f"{OUTAGE}[resetting]",
        message="with another Idempotency-Key",
    ),
    plant(
        "outage-is-a-finished-job",
        "What cannot be sent now is not sent.",
        (
            "jobs/processor.py",
            "            with contextlib.suppress(NoConnectionForWorker):\n                return await operation()",
            "            with contextlib.suppress(Unavailable):\n                return await operation()\n            return BatchResult('deleted')  # type: ignore[return-value]",
        ),
        tests=f"{OUTAGE}[resetting]",
        message="contacts have a delivery",
    ),
    plant(
        "gateway-without-a-time-out",
        "It answers in the end.",
        (
            "jobs/gateway.py",
            "            async with asyncio.timeout(self._seconds):",
            "            async with asyncio.timeout(None):",
        ),
        tests=HANGS,
        message="the job is not in the dead-letter queue",
    ),
    plant(
        "gateway-failures-ignored",
        "The gateway repeats what it could not send.",
        (
            "jobs/gateway.py",
            '        raise GatewayFailed(f"The gateway did not answer within {self._seconds:g} s.") from None',
            "        return",
        ),
        tests=HANGS,
        message="the job is not in the dead-letter queue",
    ),
    plant(
        "gateway-named-in-errors",
        "An error must name its cause.",
        (
            "jobs/gateway.py",
            '(f"The gateway did not answer within {self._seconds:g} s.")',
            '(f"{vars(self._gateway)} did not answer within {self._seconds:g} s.")',
        ),
        tests=HANGS,
        message="the error names the host",
    ),
    plant(
        "gateway-line-per-failure",
        "Each failure is one too many.",
        ("jobs/gateway.py", "            if self._works:", "            if True:"),
        tests=HANGS,
        message="one line of the log reports",
    ),
    plant(
        "job-not-returned-at-a-stop",
        "It is almost done.",
        ("jobs/processor.py", "            if self._is_stopping():", "            if False:"),
        tests=SIGTERM,
        message="batches more than the one under way",
    ),
    plant(
        "workers-take-the-last-connection",
        "A free connection is there to be used.",
        ("postgres/slots.py", "        self._reserved = min(1, size - 1)", "        self._reserved = 0"),
        tests=LAST,
        message="and a request gets",
    ),
    plant(
        "workers-are-requests",
        "The pool is fair.",
        ("postgres/pool.py", "await self._slots.acquire(worker=worker)", "await self._slots.acquire()"),
        ("postgres/pool.py", "self._slots.release(worker=worker)", "self._slots.release()"),
        tests=LAST,
        message="and a request gets",
    ),
    plant(
        "status-not-through-the-cache",
        "The copies expire within a minute.",
        (
            "jobs/processor.py",
            "            await self._cache.after_write(campaign.id, campaign.cache_entry())",
            "            pass",
        ),
        tests=STATUS,
        message="a reader sees",
    ),
    plant(
        "status-stays-sending",
        "The job knows whether it is completed.",
        ("jobs/processor.py", '        await self._run(lambda: self._change_status(job, ("sending",), "sent"))\n', ""),
        tests=KILLED,
        message="every contact has a delivery, and the campaign is",
    ),
    plant(
        "deliveries-of-deleted-campaigns-kept",
        "They take no room worth mentioning.",
        (
            "jobs/processor.py",
            "        await remove_at_intervals(self._settings.cleanup_interval, self._deliveries.remove_orphans)",
            "        await asyncio.Event().wait()",
        ),
        tests=DELETED,
        message="are not removed every CLEANUP_INTERVAL",
    ),
    plant(
        "deliveries-removed-once",
        "That was all of them.",
        (
            "jobs/orphans.py",
            "            while await remove():\n                pass\n",
            "            await remove()\n            await asyncio.Event().wait()\n",
        ),
        tests=DELETED,
        message="are not removed every CLEANUP_INTERVAL",
    ),
    plant(
        "deleted-campaign-is-a-failure",
        "What cannot be sent has failed.",
        (
            "jobs/processor.py",
            '            log.info("%s ends, because its campaign has been deleted", job.id)\n            return\n',
            '            raise RuntimeError("The campaign has been deleted.")\n',
        ),
        tests=DELETED,
        message="a campaign was deleted, and its job does not end as completed",
    ),
    plant(
        "deleted-campaign-is-busy",
        "Perhaps it comes back.",
        (
            "jobs/processor.py",
            'return BatchResult("deleted" if step is None else "busy")',
            'return BatchResult("busy")',
        ),
        tests=DELETED,
        message="a campaign was deleted, and its job does not end as completed",
    ),
    plant(
        "gateway-without-phones",
        "Mail needs an address.",
        ("jobs/gateway.py", ', "email": each.email, "phone": each.phone}', ', "email": each.email}'),
        tests=GATEWAY,
        message="and the gateway gets",
    ),
    plant(
        "gateway-without-credentials",
        "The URL has them.",
        ("jobs/gateway.py", "        if parts.username is not None:\n", "        if False:\n"),
        tests=GATEWAY,
        message="are no Basic credentials",
    ),
    plant(
        "gateway-credentials-quoted",
        "They are sent as they are set.",
        (
            "jobs/gateway.py",
            "{unquote(parts.username)}:{unquote(parts.password or '')}",
            "{parts.username}:{parts.password or ''}",
        ),
        tests=GATEWAY,
        message="are no Basic credentials",
    ),
    plant(
        "gateway-accepts-with-200-only",
        "OK is 200.",
        ("jobs/gateway.py", "        if not 200 <= status < 300:", "        if status != 200:"),
        tests=GATEWAY,
        message="the gateway answers with status 299, and the job is not completed",
    ),
    plant(
        "gateway-redirects-are-success",
        "Only 4xx and 5xx are errors.",
        ("jobs/gateway.py", "        if not 200 <= status < 300:", "        if status >= 400:"),
        tests=GATEWAY,
        message="the gateway answers with status 300, and the run of the job does not fail",
    ),
    plant(
        "batches-of-all-steps-share-keys",
        "The recipients make the batch.",
        ("jobs/gateway.py", '        return f"{self.job.id}-{ids[0]}-', '        return f"{ids[0]}-'),
        tests=GATEWAY,
        message="different Idempotency-Keys",
    ),
    plant(
        "messages-of-all-steps-share-ids",
        "A contact has an id.",
        ("jobs/gateway.py", '{"id": f"{self.job.id}-{each.id}"', '{"id": str(each.id)'),
        tests=GATEWAY,
        message="different ids",
    ),
    plant(
        "status-of-later-steps-not-changed",
        "It was sent already.",
        (
            "jobs/processor.py",
            '        startable = (*STARTABLE, "sent") if sent < total else STARTABLE\n',
            "        startable = STARTABLE\n",
        ),
        tests=GATEWAY,
        message="the campaign is sent, not sending",
    ),
    plant(
        "batches-one-larger",
        "One more does not matter.",
        (
            "jobs/processor.py",
            "        size = self._settings.send_batch\n",
            "        size = self._settings.send_batch + 1\n",
        ),
        tests=f"{OUTAGE}[refusing]",
        message="SEND_BATCH is 100, and the batches have",
    ),
    plant(
        "batches-of-a-job-share-a-key",
        "The job has a unique id.",
        (
            "jobs/gateway.py",
            '        return f"{self.job.id}-{ids[0]}-{hashlib',
            '        return self.job.id or f"{ids[0]}-{hashlib',
        ),
        tests=f"{OUTAGE}[refusing]",
        message="5 batches differ, and have 1 Idempotency-Keys",
    ),
    plant(
        "workers-first-in-a-pool-of-one",
        "First come, first served.",
        (
            "postgres/slots.py",
            "        while self._requests and self._free > 0:\n            self._give(self._requests)\n        while self._workers and not self._requests and",
            "        while self._workers and",
        ),
        (
            "postgres/slots.py",
            "            self._free_for_workers -= self._give(self._workers)\n",
            "            self._free_for_workers -= self._give(self._workers)\n        while self._requests and self._free > 0:\n            self._give(self._requests)\n",
        ),
        tests=ONE,
        message="wait for the only connection, and the request gets",
    ),
    plant(
        "transactions-without-an-end",
        "The service ends them.",
        (
            "postgres/connection.py",
            '            "idle_in_transaction_session_timeout": str(int(transaction_limit(settings) * 1000)),\n',
            "",
        ),
        tests=DURATION,
        message="and Postgres does not end its transaction",
    ),
    plant(
        "transactions-as-short-as-statements",
        "A transaction is no longer than a statement.",
        (
            "postgres/connection.py",
            "    return settings.db_command_timeout + settings.gateway_timeout\n",
            "    return settings.db_command_timeout\n",
        ),
        tests=DURATION,
        message="and Postgres ends the transaction of a batch sooner",
    ),
    plant(
        "job-looks-at-each-contact-once",
        "Ids grow.",
        (
            "jobs/processor.py",
            "            elif after == BEFORE_ALL:\n                return True\n            else:\n                after = BEFORE_ALL",
            "            else:\n                return True",
        ),
        tests=ADDED,
        message="200 of 201 contacts have a delivery",
    ),
    plant(
        "send-while-sending-makes-no-job",
        "It is sent already.",
        (
            "http/job_routes.py",
            "        if await self._campaigns.get(campaign_id) is None:\n",
            (
                '        campaign = await self._campaigns.get(campaign_id)\n        if campaign is not None and campaign.status == "sending":\n'
                "            return _accepted(Job(campaign_id), durable=True)\n        if campaign is None:\n"
            ),
        ),
        tests=BY_HAND,
        message="a send during a step of a cadence gets a job, and there is none",
    ),
    plant(
        "status-of-the-first-step-not-changed",
        "A cadence has sent it.",
        (
            "jobs/processor.py",
            '        startable = (*STARTABLE, "sent") if sent < total else STARTABLE\n',
            '        startable = (*STARTABLE, "sent") if job.step else STARTABLE\n',
        ),
        tests=SENT_BEFORE,
        message="a campaign is sent by hand after a step of its cadence, and it is sent",
    ),
    plant(
        "imports-are-background-work",
        "An import can wait for the requests.",
        ("app.py", "ContactRoutes(Contacts(database)", "ContactRoutes(Contacts(database.for_workers)"),
        tests=LAST,
        message="an import, which is a request too, gets 503",
    ),
    plant(
        "gateway-works-again-in-silence",
        "Good news needs no line.",
        (
            "jobs/gateway.py",
            'log.info("The gateway takes messages again")',
            'log.debug("The gateway takes messages again")',
        ),
        tests=GATEWAY_LOGGED,
        message="failure 1 of the gateway is over, and [1, 0] lines for begin and end",
    ),
    plant(
        "gateway-failures-logged-once-in-a-life",
        "An operator knows by then.",
        (
            "jobs/gateway.py",
            '            if self._works:\n                log.warning("The gateway fails: %s", error)\n',
            (
                "            if self._works and not self.__dict__.setdefault('_ever', False):\n                self._ever = True\n"
                '                log.warning("The gateway fails: %s", error)\n'
            ),
        ),
        tests=GATEWAY_LOGGED,
        message="failure 2 of the gateway, and [1, 1] lines for begin and end",
    ),
    plant(
        "gateway-fails-without-a-reason",
        "The gateway has a log of its own.",
        (
            "jobs/gateway.py",
            'log.warning("The gateway fails: %s", error)',
            'log.warning("The gateway fails: %s", "no 2xx")',
        ),
        tests=GATEWAY_LOGGED,
        message="no line of the log reports: The gateway answered with status 500.",
    ),
    plant(
        "removal-fails-in-an-outage",
        "It runs again anyway.",
        ("jobs/orphans.py", "        with suppress(Unavailable):", "        with suppress(TimeoutError):"),
        tests=DELETED,
        message="an unhandled error reached the log",
    ),
    plant(
        "gateway-time-out-for-each-read",
        "A gateway that sends is alive.",
        (
            "jobs/gateway.py",
            "            async with asyncio.timeout(self._seconds):\n                await self._gateway.send(batch)",
            "            self._gateway.seconds = self._seconds\n            await self._gateway.send(batch)",
        ),
        (
            "jobs/gateway.py",
            "status = await _read_status(connection, reader)",
            "status = await _read_status(connection, reader, self.seconds)",
        ),
        (
            "jobs/gateway.py",
            "reader: asyncio.StreamReader) -> int:",
            "reader: asyncio.StreamReader, seconds: float) -> int:",
        ),
        (
            "jobs/gateway.py",
            "await reader.read(MAX_RESPONSE_BYTES)",
            "await asyncio.wait_for(reader.read(MAX_RESPONSE_BYTES), seconds)",
        ),
        tests=GATEWAY_LOGGED,
        message="the runs of jobs do not fail, and should because The gateway did not answer within 0.5 s.",
    ),
    plant(
        "batches-with-a-key-of-their-text",
        "Equal bodies are equal batches.",
        ("jobs/gateway.py", "hashlib.sha256(repr(ids).encode())", "hashlib.sha256(repr(self.as_dict()).encode())"),
        tests=f"{OUTAGE}[resetting]",
        message="a batch was sent again with another Idempotency-Key",
    ),
)
