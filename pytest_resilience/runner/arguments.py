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
    check_workload(workload)
    if clients is not None and (not isinstance(clients, int) or isinstance(clients, bool) or clients < 1):
        raise SetupError(f"play(): clients is a number of 1 or more, or None for the profile's, got {clients!r}")
    if not isinstance(recovery, int | float) or isinstance(recovery, bool) or not recovery > 0:
        raise SetupError(f"play(): recovery is seconds above 0, got {recovery!r}")


def check_workload(workload: object) -> None:
    """Check that an object has the attributes of a workload.

    Raises:
        SetupError: it is a class, or an attribute is missing.
    """
    __tracebackhide__ = True
    expected = "a play needs a workload, such as HttpResource('/items', ...)"
    if isinstance(workload, type):
        raise SetupError(f"{expected}; got the class {workload.__name__}: create an instance of it")
    missing = [name for name in ("kinds", "begin", "kind", "perform", "read_all", "end") if not hasattr(workload, name)]
    if missing:
        raise SetupError(f"{expected}; {workload!r} has no {', no '.join(missing)}")
