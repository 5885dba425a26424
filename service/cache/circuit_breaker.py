"""The circuit breaker in front of Redis. It decides only, without a clock or I/O.

Rules: the dependency is down until its first success. Each outage and each recovery is logged once. A failure of an
earlier period (epoch) changes nothing. One prober at most uses the delays: the wait before the next probe, and the time
for which a dependency that failed again soon must stay up before requests use it.
"""

from __future__ import annotations

from collections.abc import Callable

MIN_DELAY = 0.1
MAX_DELAY = 0.5
FLAPPING_WINDOW = 10.0  # seconds up after which a failure counts as a new outage, not as flapping
TRIAL_SECONDS = 0.5  # seconds for which a flapping dependency must stay up before it is used again


class CircuitBreaker:
    """The state of one dependency and the delays of its prober.

    Args:
        random: returns a number in [0, 1), which spreads the probes of many instances.
    """

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._recovered_at: float | None = None
        self._announced = False
        self._failures = 0
        self.up = False
        self.reason = "not tried yet"
        self.epoch = 0
        self.outages = 0

    def record_failure(self, reason: str, epoch: int) -> bool:
        """Record a failure seen during `epoch`. Return True if this failure is the one to log."""
        if epoch != self.epoch:
            return False
        self._failures += 1
        self.reason = reason
        is_first = self.up or not self._announced
        if is_first:
            self.up = False
            self.epoch += 1
            self.outages += 1
            self._failures = 1
            self._announced = True
        return is_first

    def record_recovery(self, now: float) -> None:
        """Record that a probe succeeded and that all pending writes are delivered."""
        if self.outages:
            self._recovered_at = now
        self.up = True
        self._announced = True
        self._failures = 0
        self.reason = ""
        self.epoch += 1

    def probe_delay(self) -> float:
        """Return the seconds until the next probe while down (0.1 doubling to 0.5, times 0.5 to 1)."""
        longest = min(MAX_DELAY, MIN_DELAY * 2.0 ** min(self._failures, 10))
        return longest * (0.5 + 0.5 * self._random())

    def trial_period(self, now: float) -> float:
        """Return the seconds for which probes must succeed before recovery, 0 unless the dependency is flapping."""
        flapping = self._recovered_at is not None and now - self._recovered_at < FLAPPING_WINDOW
        return TRIAL_SECONDS if flapping else 0.0
