"""Plants in the cadence scheduler and in its table."""

from __future__ import annotations

from plants.plant import plant

ONCE = "test_cadence.py::test_two_instances_enqueue_each_period_once_and_one_goes_on_alone"
MISSED = "test_cadence.py::test_missed_periods_become_one_step"
NO_QUEUE = "test_cadence.py::test_no_step_is_lost_while_the_queue_takes_no_jobs"
KILLED = "test_cadence.py::test_a_step_survives_a_kill_between_its_claim_and_its_job"
DELETED = "test_cadence.py::test_a_deleted_campaign_or_cadence_has_no_more_steps"
CLOCK = "test_cadence.py::test_a_wrong_clock_of_an_instance_does_not_matter"

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
)
