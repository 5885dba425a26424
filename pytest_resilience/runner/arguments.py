"""The checks of the arguments of a play."""

from __future__ import annotations

from ..errors import SetupError
from ..schedule import Schedule


def check_arguments(schedule: object, workload: object, clients: object, recovery: object) -> None:
    """Check the arguments of `Resilience.play`.

    Raises:
        SetupError: one is invalid; the message has what is expected.
    """
    __tracebackhide__ = True
    if not isinstance(schedule, Schedule):
        raise SetupError(f"play() takes a Schedule, got {schedule!r}; Schedule.load reads one from a file")
    missing = [name for name in ("kinds", "begin", "kind", "perform", "read_all", "end") if not hasattr(workload, name)]
    if missing:
        raise SetupError(
            f"play() takes a workload, such as HttpResource('/items', ...); {workload!r} has no {', no '.join(missing)}"
        )
    if clients is not None and (not isinstance(clients, int) or isinstance(clients, bool) or clients < 1):
        raise SetupError(f"play(): clients is a number of 1 or more, or None for the profile's, got {clients!r}")
    if not isinstance(recovery, int | float) or isinstance(recovery, bool) or not recovery > 0:
        raise SetupError(f"play(): recovery is seconds above 0, got {recovery!r}")
