"""Plants in the queue of jobs, its journal and its worker."""

from __future__ import annotations

from plants.plant import plant

OUTAGES = "test_jobs.py::test_jobs_accepted_in_each_outage_of_redis_are_handed_back_in_order_and_run_once"
FULL = "test_jobs.py::test_a_full_journal_is_a_503_until_redis_is_back"
SIGKILL = "test_jobs.py::test_the_journal_survives_sigkill_and_loses_only_what_is_damaged"
LOST_REPLY = "test_jobs.py::test_an_enqueue_whose_reply_is_lost_makes_one_job"
FLAPS = "test_jobs.py::test_jobs_accepted_while_redis_flaps_run_once"
TAKEN_OVER = "test_jobs.py::test_another_instance_finishes_the_job_of_one_that_ends"
ENDS_THEM = "test_jobs.py::test_a_job_in_whose_runs_too_many_processes_ended_is_a_dead_letter_until_it_is_retried"
SHARED = "test_jobs.py::test_two_instances_share_the_queue_and_neither_delivers_twice"
BATCHES = "test_jobs.py::test_a_journal_with_more_jobs_than_a_batch_is_handed_back"
POISON = "test_jobs.py::test_a_job_that_always_fails_is_a_dead_letter_until_it_is_retried"
POSTGRES = "test_jobs.py::test_an_outage_of_postgres_makes_no_dead_letter"
UNWRITABLE = "test_jobs.py::test_a_journal_that_cannot_be_written_is_a_503_while_redis_is_down"
LONG = "test_redis_gone.py::test_a_long_outage_of_redis_costs_one_log_line_and_one_prober"
KILLED_BESIDE = (
    "test_jobs.py::test_a_running_instance_takes_over_the_journals_of_a_killed_one_and_of_one_that_was_stopped"
)
SYNC = "test_jobs.py::test_a_send_is_503_while_the_journal_cannot_be_synced"
DELAYS = "test_jobs.py::test_failed_runs_are_repeated_after_growing_delays_of_at_most_a_minute"
DESCRIPTORS = "test_jobs.py::test_a_lack_of_descriptors_for_the_gateway_counts_as_no_failed_run"
AT_A_TIME = "test_jobs.py::test_no_more_jobs_run_at_a_time_than_worker_connections"
WEEK = "test_jobs.py::test_a_completed_job_is_kept_for_a_week"
BEHIND = "test_jobs.py::test_a_job_that_is_sent_while_a_journal_is_handed_back_follows_the_jobs_of_the_journal"
ENDS_IN_AN_OUTAGE = "test_jobs.py::test_a_run_that_ends_during_an_outage_of_redis_is_not_repeated"

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
            "        total = 0\n",
            "        if self._counts.dead < 0:\n            return\n        total = 0\n",
        ),
        (
            "jobs/queue.py",
            'handed back to the queue", total)\n',
            'handed back to the queue", total)\n                self.bull.counts = lambda: asyncio.sleep(0, QueueCounts(dead=-1))\n',
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
        message="are not dead letters after",
    ),
    plant(
        "jobs-given-up-at-once",
        "If it fails, it fails.",
        ("jobs/worker.py", "        if run.attempts + 1 >= self._attempts:\n", "        if True:\n"),
        tests=POISON,
        message="a job has 1 runs, not 2",
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
        message="are not dead letters after",
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
        message="episodes of a journal that cannot be used, and [",
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
    plant(
        "metrics-journal-of-the-last-check",
        "All counts are from the last check.",
        (
            "jobs/queue.py",
            "replace(self._counts, journal=len(self.journal), failed=self.failed_runs)",
            "replace(self._counts, failed=self.failed_runs)",
        ),
        tests=OUTAGES,
        message="jobs are in the journal, and the metrics count",
    ),
    plant(
        "jobs-handed-back-in-silence",
        "It is over, so it is no news.",
        (
            "jobs/queue.py",
            "            if total:\n                log.info(",
            "            if total:\n                log.debug(",
        ),
        tests=OUTAGES,
        message="jobs were handed back, and the log reports 0",
    ),
    plant(
        "jobs-of-the-last-batch-counted",
        "The number of jobs that were handed back is the length of the list.",
        ("jobs/queue.py", "                total += len(jobs)\n", "                total = len(jobs)\n"),
        tests=BATCHES,
        message="jobs were handed back in batches, and the log reports",
    ),
    plant(
        "jobs-beyond-a-batch-forgotten",
        "The journal is empty when Redis has its jobs.",
        (
            "jobs/queue.py",
            "                await self.journal.remove(jobs)\n",
            "                await self.journal.remove(self.journal.oldest(len(self.journal)))\n",
        ),
        tests=BATCHES,
        message="not all 251 jobs of a journal have run",
    ),
    plant(
        "jobs-connected-logged-once",
        "BullMQ was connected before.",
        (
            "jobs/queue.py",
            "                if logged_outages != self.redis.outages:\n",
            "                if logged_outages is None:\n",
        ),
        tests=OUTAGES,
        message="lines for BullMQ: one for each recovery",
    ),
    plant(
        "send-without-a-location",
        "The body has the id of the job.",
        ("http/job_routes.py", ', 202, {"Location": f"/api/jobs/{job.id}"})', ", 202)"),
        tests=OUTAGES,
        message="the Location of a send is None",
    ),
    plant(
        "job-unknown-without-redis",
        "The journal does not have it, so there is none.",
        (
            "jobs/queue.py",
            '                raise Unavailable("The queue of jobs cannot answer now.") from error\n            found = None\n',
            "                log.debug(error)\n            found = None\n",
        ),
        tests=OUTAGES,
        message="a dependency fault is 503",
    ),
    plant(
        "jobs-found-in-silence",
        "It works, so it is no news.",
        ("jobs/journal.py", '            log.info("%d jobs were found', '            log.debug("%d jobs were found'),
        tests=SIGKILL,
        message="jobs were found in the journal, and the log reports []",
    ),
    plant(
        "jobs-journal-adopted-at-the-start-only",
        "A process that was killed is started again.",
        (
            "jobs/queue.py",
            "            if checks % ADOPTION_CHECKS == 0:\n                await self.journal.adopt()\n",
            "",
        ),
        tests=KILLED_BESIDE,
        message="another one with this JOURNAL_DIR does not run them",
    ),
    plant(
        "jobs-journal-not-synced",
        "The kernel writes it to the disk in a moment.",
        ("jobs/journal.py", "            os.fdatasync(self.descriptor)\n", ""),
        tests=SYNC,
        message="although a file of the journal cannot be synced",
    ),
    plant(
        "jobs-journal-name-not-synced",
        "The file is synced, so it is there.",
        ("jobs/journal.py", "                    _sync_directory(directory)\n", ""),
        tests=SYNC,
        message="although the directory of the journal cannot be synced",
    ),
    plant(
        "send-without-a-look",
        "The processor notices when there is no such campaign.",
        (
            "http/job_routes.py",
            '        if await self._campaigns.get(campaign_id) is None:\n            raise HTTPException(404, "There is no such campaign.")\n',
            "",
        ),
        tests=POISON,
        message="a send of an unknown campaign",
    ),
    plant(
        "jobs-buried-in-silence",
        "The queue of dead letters has it.",
        ("jobs/worker.py", '        log.warning("job %s is in the dead', '        log.debug("job %s is in the dead'),
        tests=POISON,
        message="one line of the log reports each of two dead letters",
    ),
    plant(
        "jobs-line-counts-retries",
        "The first run is no retry.",
        ("jobs/worker.py", "failed_runs=run.attempts + 1)", "failed_runs=run.attempts)"),
        tests=POISON,
        message="one line of the log reports each of two dead letters",
    ),
    plant(
        "jobs-line-counts-every-run",
        "A run that ends with its process has failed.",
        ("jobs/worker.py", "failed_runs=run.attempts)", "failed_runs=run.attempts + 1)"),
        tests="test_jobs.py::test_a_job_in_whose_runs_too_many_processes_ended_is_a_dead_letter_until_it_is_retried",
        message="no run has failed, and the log says otherwise",
    ),
    plant(
        "jobs-buried-in-silence-later",
        "Operators know by now.",
        (
            "jobs/worker.py",
            '        log.warning("job %s is in the dead',
            '        log.log(logging.DEBUG if self._buried else logging.WARNING, "job %s is in the dead',
        ),
        (
            "jobs/worker.py",
            "        await self._bull.bury(run, error)\n",
            '        self._buried, self._any = getattr(self, "_any", False), True\n        await self._bull.bury(run, error)\n',
        ),
        tests=POISON,
        message="one line of the log reports each of two dead letters",
    ),
    plant(
        "jobs-that-end-processes-go-on",
        "A process may end for many reasons.",
        ("jobs/bull.py", "arguments = (self._attempts, _ms(", "arguments = (10**6, _ms("),
        tests=ENDS_THEM,
        message="processes ended in the middle of a job, and it is no dead letter",
    ),
    plant(
        "jobs-run-whatever-ended-before",
        "Perhaps it works this time.",
        ("jobs/worker.py", "if run.job is None or run.doom is not None:", "if run.job is None:"),
        tests=ENDS_THEM,
        message="processes ended in the middle of a job, and it is no dead letter",
    ),
    plant(
        "jobs-retried-with-the-ends-of-their-processes",
        "BullMQ resets what has to be reset.",
        ("jobs/bull.py", '            await client.hdel(f"{PREFIX}{job.id}", "stc")', "            #"),
        tests=ENDS_THEM,
        message="processes of its earlier runs still count against it",
    ),
    plant(
        "jobs-may-end-one-process",
        "One is the default of BullMQ.",
        ("jobs/bull.py", "arguments = (self._attempts, _ms(", "arguments = (1, _ms("),
        tests=f"{TAKEN_OVER}[SIGKILL]",
        message="an instance ended by SIGKILL in the middle of a job",
    ),
    plant(
        "metrics-dead-are-delayed",
        "Both wait for someone.",
        ("jobs/bull.py", '            pipe.zcard(f"{PREFIX}failed")\n', '            pipe.zcard(f"{PREFIX}delayed")\n'),
        tests=POISON,
        message="the metrics do not count two dead letters",
    ),
    plant(
        "metrics-interrupted-runs-have-failed",
        "A run that does not succeed has failed.",
        ("jobs/worker.py", "        self._queue.failed_runs += 1\n", ""),
        (
            "jobs/worker.py",
            "        if isinstance(error, Unavailable) and not isinstance(error, GatewayFailed):\n",
            "        self._queue.failed_runs += 1\n        if isinstance(error, Unavailable) and not isinstance(error, GatewayFailed):\n",
        ),
        tests=(POSTGRES, DESCRIPTORS),
        message="failed runs in the metrics",
    ),
    plant(
        "metrics-failed-counts-dead-letters",
        "A repeated run is no failure.",
        ("jobs/worker.py", "        self._queue.failed_runs += 1\n", ""),
        (
            "jobs/worker.py",
            "        await self._bull.bury(run, error)\n",
            "        await self._bull.bury(run, error)\n        self._queue.failed_runs += 1\n",
        ),
        tests=POISON,
        message="runs have failed, and the metrics count 2",
    ),
    plant(
        "jobs-repeated-at-once",
        "The sooner it succeeds, the better.",
        (
            "jobs/worker.py",
            "self._bull.delay(run, backoff(run.attempts + 1), error=text",
            "self._bull.delay(run, 0, error=text",
        ),
        tests=DELAYS,
        message="is not repeated after a delay",
    ),
    plant(
        "jobs-repeated-every-second",
        "A second is long enough for a gateway.",
        ("jobs/bull.py", "min(60.0, 2.0 ** (attempt - 1))", "1.0"),
        tests=DELAYS,
        message="after failed run number 3 the next one is due in",
    ),
    plant(
        "jobs-delays-without-a-maximum",
        "Exponential means exponential.",
        ("jobs/bull.py", "min(60.0, 2.0 ** (attempt - 1))", "2.0 ** (attempt - 1)"),
        tests=DELAYS,
        message="after failed run number 11 the next one is due in",
    ),
    plant(
        "jobs-repeated-together",
        "A delay is a delay.",
        ("jobs/bull.py", " * random.uniform(0.5, 1.0))", ")"),
        tests=DELAYS,
        message="jobs that fail together are repeated together",
    ),
    plant(
        "jobs-blamed-for-descriptors",
        "An error is an error.",
        (
            "jobs/gateway.py",
            '            if lacking(error) == "file descriptors":',
            '            if lacking(error) == "nothing":',
        ),
        tests=DESCRIPTORS,
        message="a lack of descriptors for the gateway counts as a failed run",
    ),
    plant(
        "worker-connections-ignored",
        "The pool has a bound of its own.",
        ("jobs/worker.py", "asyncio.Semaphore(settings.worker_connections)", "asyncio.Semaphore(settings.db_pool_max)"),
        ("postgres/pool.py", "settings.worker_connections", "settings.db_pool_max"),
        tests=AT_A_TIME,
        message="WORKER_CONNECTIONS is 1, and the metrics do not count",
    ),
    plant(
        "jobs-completed-kept-for-a-day",
        "Nobody asks later than that.",
        ("jobs/bull.py", "KEEP_COMPLETED = 7 * 86_400", "KEEP_COMPLETED = 86_400"),
        tests=WEEK,
        message="they are kept for a week",
    ),
    plant(
        "jobs-completed-kept-for-ever",
        "Redis is large.",
        ("jobs/bull.py", '        keep = {"age": KEEP_COMPLETED}\n', "        keep = False\n"),
        tests=WEEK,
        message="they are kept for a week",
    ),
    plant(
        "job-attempts-without-the-present-one",
        "It has not ended yet.",
        (
            "jobs/bull.py",
            'attempts=int(fields.get("atm", 0)) + (status == "active"),',
            'attempts=int(fields.get("atm", 0)),',
        ),
        tests=f"{TAKEN_OVER}[SIGKILL]",
        message="a job runs for the first time, and has 0 attempts",
    ),
    plant(
        "jobs-journal-deleted-at-the-stop",
        "A clean end leaves no files behind.",
        (
            "jobs/journal.py",
            "            self._own.close() if self._jobs else self._own.delete()\n",
            "            self._own.delete()\n",
        ),
        tests=KILLED_BESIDE,
        message="processes ended with jobs in their journals",
    ),
    plant(
        "jobs-adopted-journal-deleted-at-the-stop",
        "Its jobs are in memory now.",
        (
            "jobs/journal.py",
            "            file.close()\n        if self._own",
            "            file.delete()\n        if self._own",
        ),
        tests=KILLED_BESIDE,
        message="processes ended with jobs in their journals",
    ),
    plant(
        "jobs-journal-works-again-in-silence",
        "Good news needs no line.",
        ("jobs/journal.py", 'log.info("resolved: the journal', 'log.debug("resolved: the journal'),
        tests=UNWRITABLE,
        message="1 episodes of a journal that cannot be used, and [1, 0] lines",
    ),
    plant(
        "jobs-journal-full-for-ever",
        "A disk that failed once will fail again.",
        (
            "jobs/journal.py",
            '            batch.outcome = "synced"\n            self._report(None)\n',
            '            batch.outcome = "synced"\n',
        ),
        tests=UNWRITABLE,
        message="the journal can be written again, and /readyz reports that jobs go to full",
    ),
    plant(
        "jobs-journal-given-up",
        "It is better to fail fast.",
        ("jobs/journal.py", "        if self._is_full:\n", "        if not self.accepts:\n"),
        tests=UNWRITABLE,
        message="a send is not accepted: 503",
    ),
    plant(
        "jobs-journal-fails-without-a-reason",
        "The disk is full, what else.",
        (
            "jobs/journal.py",
            'cannot be used: %s", self._directory, failure)',
            'cannot be used: %s", "JOURNAL_DIR", "no room")',
        ),
        tests=UNWRITABLE,
        message="a file is in place of the journal, and the log has no line with",
    ),
    plant(
        "retry-of-any-job",
        "A retry does no harm.",
        (
            "http/job_routes.py",
            '        if state.status != "failed" or not await self._queue.retry(state.job.id):\n',
            '        if state.status == "completed" or await self._queue.retry(state.job.id) is None:\n',
        ),
        tests=AT_A_TIME,
        message="retries of an active job and of two that wait are {202}, not 409",
    ),
    plant(
        "job-by-another-spelling",
        "int() knows what a number is.",
        (
            "jobs/job.py",
            "return job if job is not None and job.id == job_id else None",
            "return job",
        ),
        tests=POISON,
        message="with a 0 before its number it is 200, not 404",
    ),
    plant(
        "metrics-delayed-do-not-wait",
        "The jobs that wait are in the list `wait`.",
        ("jobs/bull.py", "QueueCounts(waiting=waiting + delayed,", "QueueCounts(waiting=waiting,"),
        tests=DELAYS,
        message="jobs wait for their next runs, and the metrics do not count them as waiting",
    ),
    plant(
        "metrics-journal-never-down",
        "The peak is what matters.",
        ("jobs/queue.py", "        self.failed_runs = 0\n", "        self.failed_runs = 0\n        self._peak = 0\n"),
        (
            "jobs/queue.py",
            "        return dataclasses.replace(self._counts, journal=len(self.journal),",
            (
                "        self._peak = max(self._peak, len(self.journal))\n"
                "        return dataclasses.replace(self._counts, journal=self._peak,"
            ),
        ),
        tests=OUTAGES,
        message="all jobs have run, and the metrics count 4 in the journal",
    ),
    plant(
        "jobs-pass-those-of-the-journal",
        "Redis is back, so it takes jobs.",
        (
            "jobs/queue.py",
            "        if self.redis.up and not self.journal:\n            with",
            "        if self.redis.up:\n            with",
        ),
        tests=BEHIND,
        message="a job is in the queue before jobs that were sent earlier",
    ),
    plant(
        "jobs-found-go-last",
        "First come, first served.",
        (
            "jobs/journal.py",
            "self._jobs = dict.fromkeys(found) | self._jobs",
            "self._jobs = self._jobs | dict.fromkeys(found)",
        ),
        tests=KILLED_BESIDE,
        message="jobs were sent as [1, 2, 3, 4] and ran as",
    ),
    plant(
        "completed-jobs-keep-their-error",
        "It did fail.",
        (
            "jobs/bull.py",
            'error=None if error is None or status == "completed" else',
            "error=None if error is None else",
        ),
        tests=POISON,
        message="a job is completed, and has the error of an earlier run",
    ),
    plant(
        "jobs-lose-outcomes-in-an-outage",
        "The job is taken back when its lock has expired.",
        (
            "jobs/worker.py",
            (
                "        while True:\n            await self._redis.wait_until(up=True)\n            try:\n"
                "                if await self._bull.hold(run):"
            ),
            (
                "        while True:\n            if not self._redis.up:\n                return\n            try:\n"
                "                if await self._bull.hold(run):"
            ),
        ),
        tests=ENDS_IN_AN_OUTAGE,
        message="a run ended during an outage of Redis, and afterwards its job is not completed",
    ),
    plant(
        "jobs-with-a-lock-for-once",
        "A job takes less than 3 seconds.",
        ("jobs/worker.py", "            for run in list(self._runs):\n", "            for run in ():\n"),
        tests=ENDS_IN_AN_OUTAGE,
        message="a job runs, and its lock is not renewed",
    ),
)
