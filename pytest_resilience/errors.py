"""The exceptions of pytest-resilience.

ResilienceError
├── SetupError                the test is set up wrongly; nothing was tested
│   ├── BackendUnavailable    the chosen backend can't start; the message names what to install
│   ├── ServerNotReady        a server or the service did not become ready: command, time, log
│   ├── ProcessEnded          the process of a service, or another one, was needed after its end: exit code, time, log
│   ├── UnknownFault          a marker or schedule names a fault that does not exist
│   ├── ScheduleError         a schedule is malformed or impossible; the message has the path to the field
│   ├── CannotInject          this backend or platform does not support the fault
│   └── NoService             resilience.service without a resilience_service fixture
├── HealFailed                a fault could not be healed
├── BackendDied               a server or the proxy exited although no test struck it
├── VacuousTest               a fault affected nothing, under --resilience-strict
└── LeakedResources           a test leaked a resource, under --resilience-leaks=error
NeverHappened                 (AssertionError) a probe timed out
NotSteady                     (AssertionError) an answer or jobs were not before, during or after a fault as they should be
NotCancellationSafe           (AssertionError) a cancelled operation has damaged its client
PromiseBroken                 (AssertionError) a checker found a violation in a history
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .redaction import redacted_command, scrubbed
from .wording import close_matches, suggestion

if TYPE_CHECKING:
    from .operation import Verdict


class ResilienceError(Exception):
    """Base class of all errors of this package, except failed probes (AssertionError)."""


class SetupError(ResilienceError):
    """The test is set up wrongly, or can't be set up here. The system was not tested."""


def ending(exit_code: int) -> str:
    """Describe an exit code: "exit code 1", "exit code -9 (SIGKILL)", "exit code 137 (SIGKILL, from a shell)"."""
    import signal

    names = {number.value: number.name for number in signal.Signals}
    if -exit_code in names:
        return f"exit code {exit_code} ({names[-exit_code]})"
    if exit_code - 128 in names:
        return f"exit code {exit_code} ({names[exit_code - 128]}, from a shell)"
    return f"exit code {exit_code}"


class BackendUnavailable(SetupError):
    """The chosen backend can't start here. The message names what to install."""


class ServerNotReady(SetupError):
    """A process was started and did not become ready in time.

    Attributes:
        name: the name of the process, such as "postgres".
        command: the command line without secrets.
        within: the seconds that it was given.
        log: the end of its output, without secrets.
        exit_code: its exit code, or None if it still runs.
    """

    def __init__(
        self,
        name: str,
        *,
        command: Iterable[str],
        within: float,
        log: str,
        exit_code: int | None,
        after: float | None = None,
        seen: Iterable[str] = (),
        missing: str = "answer",
    ) -> None:
        """Make the error and its message.

        Args:
            name: the name of the process.
            command: the command line; secrets are replaced.
            within: the seconds that the process was given.
            log: the end of its output; secrets are replaced.
            exit_code: its exit code, or None if it still runs.
            after: seconds from its start to its exit; None if unknown.
            seen: further observations, one line each.
            missing: the action by which the process would have been ready.
        """
        self.name = name
        self.command = redacted_command(command)
        self.within = within
        self.log = scrubbed(log)
        self.exit_code = exit_code
        if exit_code is None:
            state = f"did not {missing} within {within:g} s; it is still running"
        else:
            took = f" after {after:.2f} s" if after is not None else ""
            state = f"ended with {ending(exit_code)}{took}, before it was ready"
        lines = [f"{name} {state}", *(f"  {line}" for line in seen), f"  command: {' '.join(self.command)}"]
        tail = (f"    {line}" for line in _last_lines(self.log))
        super().__init__("\n".join([*lines, "  its log, last lines:", *tail]))


def _last_lines(log: str) -> list[str]:
    return log.rstrip().splitlines()[-40:] or ["(it wrote nothing)"]


class ProcessEnded(SetupError):
    """A process was needed after its end.

    Attributes:
        title: the process in messages, such as "the service".
        pid: its process id.
        exit_code: its exit code, negative for a signal, or None if unknown.
        ago: seconds since its end, or None if unknown.
        log: the end of its output, without secrets, or None if it can't be read.
    """

    def __init__(
        self,
        title: str,
        pid: int,
        *,
        remedy: str,
        exit_code: int | None = None,
        ago: float | None = None,
        log: str | None = None,
        purpose: str = "",
    ) -> None:
        """Make the error and its message.

        Args:
            title: the process in messages.
            pid: its process id.
            remedy: the change of the test by which a process runs where one is needed.
            exit_code: its exit code, or None if unknown.
            ago: seconds since its end, or None if unknown.
            log: the end of its output; secrets are replaced. None if it can't be read.
            purpose: the clause with which the message begins, such as "service.pause cannot strike: "; "" for none.
        """
        self.title = title
        self.pid = pid
        self.exit_code = exit_code
        self.ago = ago
        self.log = scrubbed(log) if log is not None else None
        self._remedy = remedy
        code = f" with {ending(exit_code)}" if exit_code is not None else ""
        when = f", {ago:.2f} s ago" if ago is not None else ""
        lines = [f"{purpose}{title} is not running: process {pid} has ended{code}{when}", f"  {remedy}"]
        if self.log is not None:
            lines += ["  its log, last lines:", *(f"    {line}" for line in _last_lines(self.log))]
        super().__init__("\n".join(lines))

    def needed_for(self, purpose: str) -> ProcessEnded:
        """Return an error of this process whose message begins with the purpose."""
        return ProcessEnded(
            self.title,
            self.pid,
            remedy=self._remedy,
            exit_code=self.exit_code,
            ago=self.ago,
            log=self.log,
            purpose=purpose,
        )


class UnknownFault(SetupError):
    """A name stands for no fault."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name = name
        every = sorted(known)
        super().__init__(f"no fault named {name!r}{_near(name, every)}; there are: {', '.join(every)}")


def _near(name: str, known: list[str]) -> str:
    """Return a suggestion for a misspelt name, comparing target and fault separately."""
    target, _, fault = name.partition(".")
    faults: dict[str, list[str]] = {}
    for each in known:
        faults.setdefault(each.partition(".")[0], []).append(each.partition(".")[2])
    if target in faults and not fault:
        return f", which is a target: add the name of a fault, such as '{target}.{faults[target][0]}'"
    elsewhere = [each for each in known if each.partition(".")[2] == (fault or target)]
    if elsewhere and (target in faults or not fault):
        return suggestion(elsewhere)
    targets = [target] if target in faults else close_matches(target, faults)
    meant = [f"{each}.{found}" for each in targets for found in close_matches(fault, faults[each])]
    return suggestion(meant or (close_matches(name, known) if not fault else []))


class ScheduleError(SetupError):
    """A schedule is malformed or names an impossible fault. The message begins with the path to the field."""


class CannotInject(SetupError):
    """This backend or platform does not support the fault."""


class NoService(SetupError):
    """`resilience.service` was used without a `resilience_service` fixture that describes how to start it."""


class HealFailed(ResilienceError):
    """One or more faults could not be healed.

    Attributes:
        blocked_by: the labels of the active strikes that may be the reason, such as "redis.pause". Another heal works when they are
            over. Empty if no other strike is the reason.
    """

    def __init__(self, message: str, *, blocked_by: Iterable[str] = ()) -> None:
        """Make the error.

        Args:
            message: the message.
            blocked_by: the labels of the strikes that may be the reason.
        """
        self.blocked_by = tuple(blocked_by)
        super().__init__(message)


class BackendDied(ResilienceError):
    """A server or the proxy exited although no test struck it."""


class VacuousTest(ResilienceError):
    """A test passed although its fault affected nothing, so the test proves nothing."""

    def __init__(self, struck: Iterable[tuple[str, str]]) -> None:
        self.struck = list(struck)
        super().__init__(
            "VACUOUS: " + "; ".join(f"{label} {receipt}" for label, receipt in self.struck) + "\n"
            "  The test passed, but no traffic met the fault, so the test proves nothing. Strike before the traffic that should meet\n"
            "  the fault, and send that traffic through `.url` (`.direct_url` bypasses the proxy)."
        )


class LeakedResources(ResilienceError):
    """A test passed and leaked a resource, such as a connection, a thread or a lock.

    Attributes:
        leaks: one line for each leaked resource.
    """

    def __init__(self, leaks: Iterable[str], example: str) -> None:
        self.leaks = list(leaks)
        super().__init__(
            "LEAK: " + "\n      ".join(self.leaks) + "\n"
            "  The test passed, and these resources remain after the teardown of all its fixtures. Close them in the test; or declare\n"
            f"  that they are meant to stay: @pytest.mark.leaks({example!r})."
        )


class NeverHappened(AssertionError):
    """A probe timed out. The message shows the last answer."""


class NotSteady(AssertionError):
    """A question had no true answer, or jobs did not run as before, during or after a fault. The message has all answers."""


class NotCancellationSafe(AssertionError):
    """A cancelled operation has damaged its client: a lost connection, a wrong answer, a leak.

    Attributes:
        point: the point at which the operation was cancelled, such as "cancelled after message 2 of 3, heal during the next operation".
        problem: the damage.
    """

    def __init__(self, point: str, problem: str, *, details: str = "") -> None:
        """Make the error.

        Args:
            point: the point.
            problem: the damage.
            details: further facts, such as the frame in which the operation waited; "" for none.
        """
        self.point = point
        self.problem = problem
        super().__init__(f"{point}: {problem}" + (f"\n  {details}" if details else ""))


class PromiseBroken(AssertionError):
    """A history breaks what was promised.

    Attributes:
        verdicts: the violated verdicts.
        history: the `History`.
    """

    def __init__(self, verdicts: Sequence[Verdict], history: Any) -> None:
        self.verdicts = list(verdicts)
        self.history = history
        super().__init__("\n".join(f"{each.checker}: {each.why}" for each in verdicts))
