"""The breaker in front of Redis: decides, keeps no clock, does no I/O.

Rules: down until the first success; one line per outage and one per recovery; a failure that belongs to an earlier
period of being up changes nothing; at most one prober, which asks here how long to wait and how long a freshly healed
dependency has to stay healed before it is trusted again.
"""

from __future__ import annotations

from collections.abc import Callable

MIN_DELAY = 0.1
MAX_DELAY = 0.5
FLAPPING_WINDOW = 10.0  # seconds up after which a failure counts as a new story, not as flapping
TRIAL_SECONDS = 0.5  # seconds a flapping dependency has to hold before it is used again


class CircuitBreaker:
    """Up or down, since when, and what the prober does next.

    Args:
        random: returns a number in [0, 1); spreads the probes of many instances.
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
        """Note a failure seen during `epoch`. True when this is the one to log."""
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
        """Note that the prober found it well, and that all that was owed to it has been delivered."""
        if self.outages:
            self._recovered_at = now
        self.up = True
        self._announced = True
        self._failures = 0
        self.reason = ""
        self.epoch += 1

    def probe_delay(self) -> float:
        """Seconds until the next probe while down: 0.1 doubling to 0.5, times 0.5 to 1."""
        longest = min(MAX_DELAY, MIN_DELAY * 2.0 ** min(self._failures, 10))
        return longest * (0.5 + 0.5 * self._random())

    def trial_period(self, now: float) -> float:
        """Seconds it has to hold before it is trusted: none, unless it came back only a moment ago and fell again."""
        flapping = self._recovered_at is not None and now - self._recovered_at < FLAPPING_WINDOW
        return TRIAL_SECONDS if flapping else 0.0
