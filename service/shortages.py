"""The episodes in which the process is short of file descriptors or of memory. Each is logged once, at its begin and its end.

Rules: such a failure is no fault of the program, so nothing logs its traceback. A request gets a 503, and a loop is restarted. An
import or a file that failed without descriptors is tried again at its next use.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from collections.abc import Callable
from typing import Literal

Resource = Literal["file descriptors", "memory"]

log = logging.getLogger("service.shortages")

CALM = 5.0  # seconds without a failure, after which an episode may be over
ERRNOS: dict[int | None, Resource] = {
    errno.EMFILE: "file descriptors",
    errno.ENFILE: "file descriptors",
    errno.ENOMEM: "memory",
}
BEGIN: dict[Resource, str] = {"file descriptors": "no file descriptor is left", "memory": "no memory is left"}
END: dict[Resource, str] = {"file descriptors": "there are file descriptors again", "memory": "there is memory again"}


def lacking(error: BaseException) -> Resource | None:
    """Return the resource whose lack has caused an error. None for an error with another cause."""
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, OSError):
        return ERRNOS.get(error.errno)
    if isinstance(error, ImportError):  # dlopen has only the text of an error
        return next((ERRNOS[number] for number in ERRNOS if number and os.strerror(number) in str(error)), None)
    if isinstance(error, BaseExceptionGroup):
        resources = [lacking(each) for each in error.exceptions]
        return None if None in resources else resources[0]
    return None


class Shortages:
    """The present episodes of one process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed_at: dict[Resource, float] = {}

    def report(self, error: BaseException, purpose: str) -> Resource | None:
        """Record an error if the lack of a resource has caused it. Return the resource, or None for another error.

        Args:
            error: of a request or a loop.
            purpose: what failed, as the log names it: "to answer a request".
        """
        resource = lacking(error)
        if resource is not None:
            self.record(resource, purpose)
        return resource

    def record(self, resource: Resource, purpose: str) -> None:
        """Record a failure. The first one of an episode is logged."""
        if resource not in self._failed_at:
            log.error("%s %s", BEGIN[resource], purpose)
        self._failed_at[resource] = self._clock()

    def is_calm(self, resource: Resource) -> bool:
        """True if there was no failure in the last CALM seconds."""
        return resource not in self._failed_at or self._clock() - self._failed_at[resource] > CALM

    def sweep(self) -> None:
        """End the episodes that are over."""
        for resource in list(self._failed_at):
            if self.is_calm(resource) and (resource == "memory" or _has_descriptor()):
                del self._failed_at[resource]
                log.info("resolved: %s", END[resource])


def _has_descriptor() -> bool:
    """True if a file can be opened."""
    with contextlib.suppress(OSError):
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        return True
    return False
