"""Plants in the queue of jobs, its journal and its worker."""

from __future__ import annotations

from plants.plant import plant

OUTAGES = "test_jobs.py::test_jobs_accepted_in_each_outage_of_redis_are_handed_back_in_order_and_run_once"
FULL = "test_jobs.py::test_a_full_journal_is_a_503_until_redis_is_back"
SIGKILL = "test_jobs.py::test_the_journal_survives_sigkill_and_loses_only_what_is_damaged"
LOST_REPLY = "test_jobs.py::test_an_enqueue_whose_reply_is_lost_makes_one_job"
FLAPS = "test_jobs.py::test_jobs_accepted_while_redis_flaps_run_once"
TAKEN_OVER = "test_jobs.py::test_another_instance_finishes_the_job_of_one_that_ends"
SHARED = "test_jobs.py::test_two_instances_share_the_queue_and_neither_delivers_twice"
POISON = "test_jobs.py::test_a_job_that_always_fails_is_a_dead_letter_until_it_is_retried"
POSTGRES = "test_jobs.py::test_an_outage_of_postgres_makes_no_dead_letter"
UNWRITABLE = "test_jobs.py::test_a_journal_that_cannot_be_written_is_a_503_while_redis_is_down"
LONG = "test_redis_gone.py::test_a_long_outage_of_redis_costs_one_log_line_and_one_prober"

PLANTS = (
    plant(
        "jobs-without-a-fallback",
        "The queue is in Redis, and without Redis there is no queue.",
        (
            "jobs/queue.py",
            "        await self.journal.append(job)\n        self._wake.set()\n",
            '        raise Unavailable("The queue is down.")\n',
        ),
        tests=OUTAGES,
        message="a send is not accepted",
    ),
    plant(
        "jobs-unbounded-wait-for-redis",
        "A job is worth the wait.",
        (
            "jobs/queue.py",
            "await self.bull.add(job, TimeBudget(self._budget))",
            "await self.bull.add(job, TimeBudget(2))",
        ),
        tests=OUTAGES,
        message="a send took",
    ),
    plant(
        "jobs-newest-first",
        "The newest job is the most urgent one.",
        (
            "jobs/journal.py",
            "[job for job, _ in zip(self._jobs, range(count), strict=False)]",
            "[job for job, _ in zip(reversed(self._jobs), range(count), strict=False)]",
        ),
        tests=OUTAGES,
        message="ran as",
    ),
    plant(
        "jobs-handed-back-once",
        "Redis was down last year, too.",
        (
            "jobs/queue.py",
            "        total = len(self.journal)\n",
            "        if self._counts.dead < 0:\n            return\n        total = len(self.journal)\n",
        ),
        (
            "jobs/queue.py",
            'handed back to the queue", total)\n',
            'handed back to the queue", total)\n            self.bull.counts = lambda: asyncio.sleep(0, QueueCounts(dead=-1))\n',
        ),
        tests=OUTAGES,
        message="is back, and after",
    ),
    plant(
        "jobs-journal-keeps-its-records",
        "The file is a useful history.",
        ("jobs/journal.py", "                self._own.empty()\n", "                pass\n"),
        tests=OUTAGES,
        message="and the journal has files of",
    ),
    plant(
        "jobs-numbered-by-redis",
        "BullMQ makes unique ids.",
        ("jobs/bull.py", '{"jobId": job.id, "attempts": self._attempts}', '{"attempts": self._attempts}'),
        tests=LOST_REPLY,
        message="a job does not run although nothing is wrong",
    ),
    plant(
        "jobs-assumed-to-have-arrived",
        "TCP is reliable.",
        (
            "jobs/queue.py",
            "                await self.bull.add(job, TimeBudget(self._budget))\n                return True\n",
            "                await self.bull.add(job, TimeBudget(self._budget))\n            return True\n",
        ),
        tests=FLAPS,
        message="jobs are lost while Redis flaps",
    ),
    plant(
        "jobs-unbounded-journal",
        "Disks are large.",
        (
            "jobs/journal.py",
            "        if self._is_full:\n            raise",
            "        if False:\n            raise",
        ),
        tests=FULL,
        message="a dependency fault is 503",
    ),
    plant(
        "jobs-journal-in-memory",
        "Redis is back in a minute.",
        (
            "jobs/journal.py",
            "            await self._in_thread(self._write, encode(batch.jobs))\n",
            "            pass\n",
        ),
        tests=SIGKILL,
        message="SIGKILL has lost them",
    ),
    plant(
        "jobs-journal-not-read-at-the-start",
        "A new process begins with an empty journal.",
        (
            "jobs/journal.py",
            '        left = sorted(set(self._directory.glob(f"*{SUFFIX}")) - held, key=_modified)\n',
            "        left = []\n",
        ),
        tests=SIGKILL,
        message="the state of a job is 503",
    ),
    plant(
        "jobs-damaged-journal-dropped",
        "A file with a wrong checksum cannot be trusted.",
        (
            "jobs/journal.py",
            "        if contents.jobs:\n            self._adopted",
            "        if contents.jobs and not contents.damaged:\n            self._adopted",
        ),
        (
            "jobs/journal.py",
            "        return contents.jobs\n",
            "        return () if contents.damaged else contents.jobs\n",
        ),
        tests=SIGKILL,
        message="the state of a job is 503",
    ),
    plant(
        "jobs-damage-ignored",
        "What cannot be read is not there.",
        (
            "jobs/journal.py",
            '        log.error("%d damaged bytes',
            '        log.debug("%d damaged bytes',
        ),
        tests=SIGKILL,
        message="lines in the log for a damaged journal",
    ),
    plant(
        "jobs-lock-of-thirty-seconds",
        "It is the default of BullMQ.",
        ("jobs/bull.py", "LOCK_SECONDS = 3.0", "LOCK_SECONDS = 30.0"),
        tests=f"{TAKEN_OVER}[SIGKILL]",
        message="ended by SIGKILL in the middle of a job",
    ),
    plant(
        "jobs-not-returned-at-the-stop",
        "The lock expires anyway.",
        (
            "jobs/worker.py",
            (
                "                async with asyncio.timeout(RETURN_TIMEOUT):\n"
                "                    await self._bull.delay(run, 0, error=None, counts=False)\n"
            ),
            "                pass\n",
        ),
        tests=f"{TAKEN_OVER}[SIGTERM]",
        message="ended by SIGTERM in the middle of a job",
    ),
    plant(
        "jobs-stop-counts-as-an-attempt",
        "It was a run, and it did not succeed.",
        (
            "jobs/worker.py",
            "                    await self._bull.delay(run, 0, error=None, counts=False)\n            raise",
            "                    await self._bull.delay(run, 0, error=None, counts=True)\n            raise",
        ),
        tests=f"{TAKEN_OVER}[SIGTERM]",
        message="the end of the instance counts as a failed run",
    ),
    plant(
        "jobs-queue-per-instance",
        "Instances should not disturb each other.",
        ("jobs/bull.py", 'NAME = "campaigns"', 'NAME = f"campaigns-{secrets.token_hex(4)}"'),
        tests=SHARED,
        message="two instances share the queue, and jobs do not run",
    ),
    plant(
        "jobs-tried-for-ever",
        "One day the gateway will take it.",
        ("jobs/worker.py", "        if run.attempts + 1 >= self._attempts:\n", "        if False:\n"),
        tests=POISON,
        message="is not a dead letter after",
    ),
    plant(
        "jobs-given-up-at-once",
        "If it fails, it fails.",
        ("jobs/worker.py", "        if run.attempts + 1 >= self._attempts:\n", "        if True:\n"),
        tests=POISON,
        message="runs, not 2",
    ),
    plant(
        "jobs-dead-letters-deleted",
        "They only take memory.",
        (
            "jobs/bull.py",
            "moveToFailed(run.bull_job, error, False, run.token",
            "moveToFailed(run.bull_job, error, True, run.token",
        ),
        tests=POISON,
        message="is not a dead letter after",
    ),
    plant(
        "jobs-retried-with-the-last-attempt",
        "A retry is one more attempt.",
        ("jobs/bull.py", '"resetAttemptsMade": True', '"resetAttemptsMade": False'),
        tests=POISON,
        message="does not get all its attempts again",
    ),
    plant(
        "jobs-dead-letter-without-a-reason",
        "The log has it.",
        ("jobs/bull.py", 'run.token, False, {"error": error})', "run.token, False)"),
        ("jobs/bull.py", 'options["fieldsToUpdate"] = {"error": error}', "pass"),
        tests=POISON,
        message="does not give the reason",
    ),
    plant(
        "jobs-blamed-for-postgres",
        "An error is an error.",
        (
            "jobs/worker.py",
            "        if isinstance(error, Unavailable) and not isinstance(error, GatewayFailed):\n",
            "        if False:\n",
        ),
        tests=POSTGRES,
        message="an outage of Postgres counts as a failed run",
    ),
    plant(
        "jobs-line-per-refused-send",
        "Each lost send matters.",
        (
            "jobs/journal.py",
            "        if failure is not None and self._failure is None:\n",
            "        if failure is not None:\n",
        ),
        tests=UNWRITABLE,
        message="lines for a journal that cannot be used",
    ),
    plant(
        "jobs-need-a-journal-to-start",
        "Fail early.",
        (
            "jobs/journal.py",
            "                self._report(error)\n                return\n",
            "                raise\n",
        ),
        tests=UNWRITABLE,
        message="the service exited with",
    ),
    plant(
        "jobs-worker-reconnects-by-itself",
        "The worker is a client of its own.",
        (
            "jobs/bull.py",
            "        if self._client is None or not self._redis.up:\n",
            "        if self._client is None:\n",
        ),
        (
            "jobs/worker.py",
            "        while True:\n            await self._redis.wait_until(up=True)\n            try:\n                if not self._may_take",
            "        while True:\n            try:\n                if not self._may_take",
        ),
        (
            "jobs/worker.py",
            "                    return run\n            except RedisUnavailable:\n                await asyncio.sleep(random.uniform(PAUSE, 2 * PAUSE))",
            "                    return run\n            except RedisUnavailable:\n                await asyncio.sleep(0.01)",
        ),
        tests=LONG,
        message="requests retry themselves",
    ),
)
