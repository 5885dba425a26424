"""Plants at the thresholds of the pool's alert and of the memory guard."""

from __future__ import annotations

from plants.plant import plant

POOL = "test_thresholds.py::test_the_pool_alert_has_an_exact_threshold_and_hysteresis"
GUARD = "test_thresholds.py::test_the_memory_guard_has_exact_thresholds_and_hysteresis"
AGAIN = "test_thresholds.py::test_a_lasting_memory_shortage_halves_the_cache_at_most_every_10_seconds"
LASTING = "test_thresholds.py::test_memory_that_stays_short_is_collected_again"

PLANTS = (
    plant(
        "alert-at-and-not-above",
        "90 is 90.",
        ("monitor.py", "        if percent > self._threshold:", "        if percent >= self._threshold:"),
        tests=POOL,
        message="exactly 90 % of the pool are in use",
    ),
    plant(
        "alert-a-little-early",
        "Better early than late.",
        ("monitor.py", "        if percent > self._threshold:", "        if percent > 0.85 * self._threshold:"),
        tests=POOL,
        message="80 % of the pool are in use, DB_POOL_ALERT_PERCENT is 89.9, and the alert is raised",
    ),
    plant(
        "alert-a-little-late",
        "Not for the last percent.",
        ("monitor.py", "        if percent > self._threshold:", "        if percent > self._threshold + 1:"),
        tests=POOL,
        message="and no alert is raised",
    ),
    plant(
        "alert-without-hysteresis",
        "Below the limit it is over.",
        ("monitor.py", "CALM_PERCENT = 75.0", "CALM_PERCENT = 100.0"),
        tests=POOL,
        message="75 % of the pool are in use, and an alert of 89.9 % is resolved",
    ),
    plant(
        "alert-never-over",
        "An operator should look at it.",
        ("monitor.py", "CALM_PERCENT = 75.0", "CALM_PERCENT = 50.0"),
        tests=POOL,
        message="70 % of the pool are in use, and the alert is not resolved",
    ),
    plant(
        "alert-resolved-once-in-a-life",
        "An operator knows by then.",
        (
            "monitor.py",
            '        elif change == "resolved":',
            '        elif change == "resolved" and self.pool_alert.episodes == 1:',
        ),
        tests=POOL,
        message="the second alert is not resolved",
    ),
    plant(
        "alert-in-whole-percents",
        "Decimals are not needed.",
        ("monitor.py", "self.pool_alert.check(round(percent, 2))", "self.pool_alert.check(int(percent))"),
        ("monitor.py", "self._threshold = threshold", "self._threshold = round(threshold)"),
        tests=POOL,
        message="no alert is raised",
    ),
    plant(
        "guard-a-little-early",
        "Act before it is too late.",
        ("memory/guard.py", "COLLECT_ABOVE, CALM_BELOW = 0.90, 0.80", "COLLECT_ABOVE, CALM_BELOW = 0.87, 0.80"),
        tests=GUARD,
        message="and the guard acts",
    ),
    plant(
        "guard-a-little-late",
        "90 % is fine.",
        ("memory/guard.py", "COLLECT_ABOVE, CALM_BELOW = 0.90, 0.80", "COLLECT_ABOVE, CALM_BELOW = 0.93, 0.80"),
        tests=GUARD,
        message="the guard acts above 90 %",
    ),
    plant(
        "guard-refuses-a-little-late",
        "Use what there is.",
        ("memory/guard.py", "REFUSE_FROM, SERVE_BELOW = 0.95, 0.93", "REFUSE_FROM, SERVE_BELOW = 0.98, 0.93"),
        tests=GUARD,
        message="load is shed from 95 % on",
    ),
    plant(
        "guard-serves-as-it-refuses",
        "One limit is easier to explain.",
        ("memory/guard.py", "REFUSE_FROM, SERVE_BELOW = 0.95, 0.93", "REFUSE_FROM, SERVE_BELOW = 0.95, 0.95"),
        tests=GUARD,
        message="lines report that work is",
    ),
    plant(
        "guard-serves-late",
        "Be sure that it is over.",
        ("memory/guard.py", "REFUSE_FROM, SERVE_BELOW = 0.95, 0.93", "REFUSE_FROM, SERVE_BELOW = 0.95, 0.88"),
        tests=GUARD,
        message="work is served again below 93 %",
    ),
    plant(
        "guard-without-hysteresis",
        "Below the limit it is over.",
        ("memory/guard.py", "COLLECT_ABOVE, CALM_BELOW = 0.90, 0.80", "COLLECT_ABOVE, CALM_BELOW = 0.90, 0.89"),
        tests=GUARD,
        message="the episode is over below 80 %",
    ),
    plant(
        "guard-without-cooldown",
        "Collect while it is needed.",
        ("memory/guard.py", "COOLDOWN = 10.0", "COOLDOWN = 0.0"),
        tests=LASTING,
        message="half goes once in 10 s",
    ),
    plant(
        "guard-evicts-the-newest",
        "What is old has proved its worth.",
        (
            "cache/memory_cache.py",
            "        self._shrink_to(self._max_entries, self.bytes // 2)",
            "        while len(self._entries) > before // 2:\n            self.drop(next(reversed(self._entries)))",
        ),
        tests=LASTING,
        message="and those left are",
    ),
    plant(
        "guard-collects-once",
        "One collection frees what can be freed.",
        ("memory/guard.py", '        return "again"', "        return None"),
        tests=LASTING,
        message="memory stays short, and no second collection is forced",
    ),
    plant(
        "guard-collects-again-after-5-seconds",
        "Memory is short, so hurry.",
        ("memory/guard.py", "COOLDOWN = 10.0", "COOLDOWN = 5.0"),
        tests=LASTING,
        message="memory is collected again after",
    ),
    plant(
        "guard-collects-again-after-a-minute",
        "A collection blocks all requests.",
        ("memory/guard.py", "COOLDOWN = 10.0", "COOLDOWN = 60.0"),
        tests=LASTING,
        message="memory stays short, and no second collection is forced",
    ),
    plant(
        "alert-over-at-75",
        "75 is 75.",
        (
            "monitor.py",
            "if percent < min(CALM_PERCENT, self._threshold)",
            "if percent <= min(CALM_PERCENT, self._threshold)",
        ),
        tests=POOL,
        message="75 % of the pool are in use, and an alert of 89.9 % is resolved",
    ),
)
