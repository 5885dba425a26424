"""Plants in the cadence scheduler and in its table."""

from __future__ import annotations

from plants.plant import plant

ONCE = "test_cadence.py::test_two_instances_enqueue_each_period_once_and_one_goes_on_alone"
MISSED = "test_cadence.py::test_missed_periods_become_one_step"
NO_QUEUE = "test_cadence.py::test_no_step_is_lost_while_the_queue_takes_no_jobs"
KILLED = "test_cadence.py::test_a_step_survives_a_kill_between_its_claim_and_its_job"
DELETED = "test_cadence.py::test_a_deleted_campaign_or_cadence_has_no_more_steps"
CLOCK = "test_cadence.py::test_a_wrong_clock_of_an_instance_does_not_matter"
COUNTING = "test_cadence.py::test_steps_go_on_counting_when_a_cadence_is_replaced_or_deleted"
LIMITS = "test_cadence.py::test_the_limits_of_a_cadence_are_exact"
UNUSED = "test_cadence.py::test_without_cadences_the_pool_is_not_used"

PLANTS = (
    plant(
        "cadence-catches-up",
        "Every period was promised.",
        (
            "postgres/cadences.py",
            "\n           * greatest(1, floor(extract(epoch FROM clock_timestamp() - due_at)::double precision / every_seconds) + 1))",
            ")",
        ),
        tests=MISSED,
        message="missed periods become one step",
    ),
    plant(
        "cadence-claims-without-condition",
        "The scheduler is called when a step is due.",
        (
            "postgres/cadences.py",
            "     WHERE coalesce(claimed_until, due_at) <= now()\n",
            "     WHERE due_at < 'infinity'\n",
        ),
        tests=ONCE,
        message="periods of 0.2 s are over in",
    ),
    plant(
        "cadence-known-to-one-instance",
        "The one that accepted it enqueues its steps.",
        ("postgres/monitor.py", "                await self._read_more(connection)\n", "                pass\n"),
        tests=ONCE,
        message="another instance does not go on with the cadence",
    ),
    plant(
        "cadence-by-the-clock-of-the-process",
        "All machines have NTP.",
        (
            "postgres/cadences.py",
            "     WHERE coalesce(claimed_until, due_at) <= now()\n",
            "     WHERE coalesce(claimed_until, due_at) <= to_timestamp($3)\n",
        ),
        (
            "postgres/cadences.py",
            "self._database.read(CLAIM, BATCH_SIZE, CLAIM_SECONDS)",
            'self._database.read(CLAIM, BATCH_SIZE, CLAIM_SECONDS, __import__("time").time())',
        ),
        tests=CLOCK,
        message="a step that is due in an hour is enqueued",
    ),
    plant(
        "cadence-outlives-its-campaign",
        "Nobody deletes campaigns.",
        (
            "postgres/cadences.py",
            "EXISTS (SELECT FROM campaigns WHERE campaigns.id = cadences.campaign_id) AS has_campaign",
            "true AS has_campaign",
        ),
        tests=DELETED,
        message="a deleted campaign has",
    ),
    plant(
        "cadence-goes-on-after-its-deletion",
        "It is not active any more.",
        (
            "postgres/cadences.py",
            "SET active = false, due_at = 'infinity', claimed_until = NULL",
            "SET active = false",
        ),
        tests=DELETED,
        message="a deleted cadence has",
    ),
    plant(
        "cadence-step-refused-is-over",
        "There will be another one.",
        (
            "jobs/scheduler.py",
            "            return False\n",
            "            return True\n",
        ),
        tests=NO_QUEUE,
        message="the queue took no jobs",
    ),
    plant(
        "cadence-never-late",
        "The step is claimed, so someone works on it.",
        (
            "jobs/scheduler.py",
            "        self._overdue_since = now - step.overdue if step.overdue else None\n",
            "",
        ),
        tests=NO_QUEUE,
        message="/readyz does not report that the cadence is late",
    ),
    plant(
        "cadence-confirmed-before-its-job",
        "So it cannot be enqueued twice.",
        (
            "jobs/scheduler.py",
            "            enqueued = [",
            "            await self._cadences.confirm(claims)\n            enqueued = [",
        ),
        tests=KILLED,
        message="steps are not delivered within",
    ),
    plant(
        "cadence-put-counts-from-one",
        "It is a new cadence.",
        (
            "postgres/cadences.py",
            "               SET active = true, every_seconds",
            "               SET active = true, step = 0, every_seconds",
        ),
        ("postgres/cadences.py", "last_step = present.step + excluded.repeat", "last_step = excluded.repeat"),
        tests=COUNTING,
        message="replaces a cadence that is over, and its steps up to 3 are not delivered",
    ),
    plant(
        "cadence-delete-forgets-the-steps",
        "Deleted is deleted.",
        (
            "postgres/cadences.py",
            "            UPDATE cadences SET active = false, due_at = 'infinity', claimed_until = NULL\n             WHERE",
            "            DELETE FROM cadences\n             WHERE",
        ),
        tests=COUNTING,
        message="replaces a deleted cadence, and its steps up to 4 are not delivered",
    ),
    plant(
        "cadence-one-step-more",
        "The last one counts, too.",
        ("postgres/cadences.py", "CASE WHEN cadences.step >= last_step", "CASE WHEN cadences.step > last_step"),
        tests=COUNTING,
        message="a cadence of an hour, and there are 3 steps, not 2",
    ),
    plant(
        "cadence-begins-at-once",
        "Why wait?",
        (
            "postgres/cadences.py",
            "$3::integer, $3::integer, clock_timestamp() + make_interval(secs => $2)",
            "$3::integer, $3::integer, clock_timestamp()",
        ),
        tests=COUNTING,
        message="the first step is due one period after the PUT",
    ),
    plant(
        "cadence-put-keeps-the-due-moment",
        "The step is planned already.",
        (
            "postgres/cadences.py",
            "excluded.repeat, due_at = excluded.due_at, claimed_until = NULL",
            "excluded.repeat, claimed_until = NULL",
        ),
        tests=COUNTING,
        message="replaces a cadence of an hour, and its steps up to 2 are not delivered",
    ),
    plant(
        "cadence-put-adds-periods",
        "Nothing that was promised is taken back.",
        (
            "postgres/cadences.py",
            "last_step = present.step + excluded.repeat",
            "last_step = present.last_step + excluded.repeat",
        ),
        tests=COUNTING,
        message="and does not end after its last step",
    ),
    plant(
        "cadence-deleted-twice",
        "DELETE is idempotent.",
        (
            "http/cadence_routes.py",
            '        if not await self._cadences.delete(campaign_id_of(request)):\n            raise HTTPException(404, "The campaign has no cadence.")\n',
            "        await self._cadences.delete(campaign_id_of(request))\n",
        ),
        tests=COUNTING,
        message="DELETE of a cadence, and again, gets [204, 204]",
    ),
    plant(
        "cadence-without-a-campaign",
        "There is no foreign key.",
        (
            "postgres/cadences.py",
            "            SELECT id, true, $2, $3::integer, $3::integer, clock_timestamp() + make_interval(secs => $2)\n              FROM campaigns WHERE id = $1\n",
            "            SELECT $1::bigint, true, $2, $3::integer, $3::integer, clock_timestamp() + make_interval(secs => $2)\n",
        ),
        tests=LIMITS,
        message="of the cadence of an unknown campaign get",
    ),
    plant(
        "cadence-of-any-length",
        "Operators know what they need.",
        (
            "postgres/cadences.py",
            "MIN_SECONDS, MAX_SECONDS = 0.1, 365 * 86_400",
            "MIN_SECONDS, MAX_SECONDS = 0.01, 366 * 86_400",
        ),
        tests=LIMITS,
        message="a cadence with every_seconds",
    ),
    plant(
        "cadence-repeats-without-bound",
        "Nobody repeats so often.",
        ("postgres/cadences.py", "MAX_REPEAT = 10_000", "MAX_REPEAT = 100_000"),
        tests=LIMITS,
        message="a cadence with repeat 10001",
    ),
    plant(
        "cadence-refusal-not-logged",
        "The journal logs it.",
        (
            "jobs/scheduler.py",
            '                log.warning("The queue takes no jobs',
            '                log.debug("The queue takes no jobs',
        ),
        tests=NO_QUEUE,
        message="no line of the log reports that",
    ),
    plant(
        "cadence-refusal-logged-each-time",
        "Each refused step matters.",
        ("jobs/scheduler.py", "            if not self._refused:\n", "            if True:\n"),
        tests=NO_QUEUE,
        message="lines for begin and end",
    ),
    plant(
        "cadence-lag-not-measured",
        "The state has it.",
        ("metrics.py", "_one(lambda s: s.scheduler.lag)", '_one(lambda s: s.scheduler.state == "late")'),
        tests=NO_QUEUE,
        message="and /readyz reports 'late' with a lag of 1.00 to 1.00 s",
    ),
    plant(
        "cadence-polls-with-the-pool",
        "One small query a second.",
        ("jobs/scheduler.py", "LONGEST_WAIT = 10.0", "LONGEST_WAIT = 0.4"),
        tests=UNUSED,
        message="there is no cadence and no request, and the pool was in use",
    ),
    plant(
        "cadence-refusal-logged-once-in-a-life",
        "An operator knows by then.",
        ("jobs/scheduler.py", "            if not self._refused:\n", "            if self._refused is False:\n"),
        (
            "jobs/scheduler.py",
            "            self._refused = False\n            log",
            "            self._refused = None\n            log",
        ),
        tests=NO_QUEUE,
        message="the queue takes no jobs a second time, and no line of the log reports that",
    ),
    plant(
        "cadence-refusal-without-a-reason",
        "The queue knows why.",
        ("jobs/scheduler.py", 'so due steps wait: %s", error)', 'so due steps wait: %s", "see the queue")'),
        tests=NO_QUEUE,
        message="the queue takes no jobs, and the log names the reasons",
    ),
    plant(
        "cadence-late-too-early",
        "Late is late.",
        ("jobs/scheduler.py", "LATE_AFTER = 1.0", "LATE_AFTER = 0.3"),
        tests="test_cadence.py::test_no_step_is_lost_while_the_queue_takes_no_jobs",
        message="and /readyz reports 'late' with a lag of 0",
    ),
    plant(
        "cadence-late-too-late",
        "A step may be late for a moment.",
        ("jobs/scheduler.py", "LATE_AFTER = 1.0", "LATE_AFTER = 2.0"),
        tests="test_cadence.py::test_no_step_is_lost_while_the_queue_takes_no_jobs",
        message="and /readyz reports 'ok' with a lag of 1",
    ),
    plant(
        "cadence-of-a-deleted-campaign-is-deleted",
        "It is there, so it can be deleted.",
        (
            "postgres/cadences.py",
            "WHERE campaign_id = $1 AND active AND EXISTS (SELECT FROM campaigns WHERE id = $1)\n         RETURNING",
            "WHERE campaign_id = $1 AND active\n         RETURNING",
        ),
        tests=DELETED,
        message="DELETE of the cadence of a deleted campaign, or of a deleted cadence, gets 204",
    ),
    plant(
        "cadence-of-a-deleted-campaign-is-shown",
        "It is there, so it can be read.",
        (
            "postgres/cadences.py",
            'WHERE campaign_id = $1 AND active AND EXISTS (SELECT FROM campaigns WHERE id = $1)"""',
            'WHERE campaign_id = $1 AND active"""',
        ),
        tests=DELETED,
        message="GET of the cadence of a deleted campaign, or of a deleted cadence, gets 200",
    ),
)
