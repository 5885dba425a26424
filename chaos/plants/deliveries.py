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

SEND = "                await self._gateway.send(Batch(job, step.name, step.message, recipients))\n"
RECORD = "                await record_deliveries(transaction, job.campaign_id, job.step, [each.id for each in recipients])\n"

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
        ("jobs/gateway.py", '("Idempotency-Key", batch.id)', '("Idempotency-Key", str(id(batch)))'),
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
)
