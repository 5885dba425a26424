"""The decisions about memory: when to collect, and when to refuse work."""

from __future__ import annotations

from typing import Literal

from .usage import MemoryUsage

COLLECT_ABOVE, CALM_BELOW = 0.90, 0.80
REFUSE_FROM, SERVE_BELOW = 0.95, 0.93
CALM_SAMPLES = 3
COOLDOWN = 10.0


class MemoryGuard:
    """The decisions about memory, from samples of use over limit. It does no I/O and reads no clock.

    An episode begins above 90 % and ends when three consecutive samples need less than 80 %. Each episode is announced
    once. A collection is forced at its begin, and again after every cooldown while more than 90 % is needed, unless the
    last collection was long and freed nothing. At 95 % needed, work that is not essential is refused.
    """

    def __init__(self) -> None:
        self.in_episode = False
        self.episodes = 0
        self._calm_samples = 0
        self._not_before = 0.0
        self.refusing = False

    def sample(self, usage: MemoryUsage, now: float) -> Literal["announce", "again"] | None:
        """Return the action for a new sample.

        Returns:
            "announce" to force a collection and log the episode, "again" to force another collection, None to do nothing.
        """
        self.update(usage)
        if self.in_episode:
            self._calm_samples = self._calm_samples + 1 if usage.needed_ratio < CALM_BELOW else 0
            if self._calm_samples >= CALM_SAMPLES:
                self.in_episode = False
        if usage.ratio <= COLLECT_ABOVE or usage.needed_ratio < CALM_BELOW:
            return None
        if not self.in_episode:
            self.in_episode, self._calm_samples = True, 0
            self.episodes += 1
            self._not_before = now + COOLDOWN
            return "announce"
        if now < self._not_before or usage.needed_ratio <= COLLECT_ABOVE:
            return None
        self._not_before = now + COOLDOWN
        return "again"

    def update(self, usage: MemoryUsage) -> None:
        """Refuse work from 95 % needed, until less than 93 % is needed."""
        self.refusing = usage.needed_ratio >= REFUSE_FROM or (self.refusing and usage.needed_ratio >= SERVE_BELOW)

    def record_collection(self, now: float, *, seconds: float, freed_share: float) -> None:
        """Record a forced collection. One that blocked the process for long and freed nothing is not repeated soon."""
        if seconds > 0.25 and freed_share < 0.01:
            self._not_before = now + 30 * COOLDOWN
