"""Everything that pytest-resilience raises.

ResilienceError
├── SetupError                the experiment itself is wrong: nothing was tested
│   ├── BackendUnavailable    no way to bring up what was asked for, and what to install
│   ├── ServerNotReady        a server or the service did not come up: command, time, log
│   ├── UnknownFault          a marker or schedule names a fault that nobody defined
│   ├── CannotInject          this backend or platform can't do that fault
│   └── NoService             resilience.service without a resilience_service fixture
├── HealFailed                a fault could not be taken back
├── BackendDied               a server or the proxy ended although no test struck it
├── VacuousTest               a fault touched nothing, under --resilience-strict
└── LeakedResources           a test left something behind, under --resilience-leaks=error
NeverHappened                 (AssertionError) a probe's hope did not come true in time
"""

from __future__ import annotations

from collections.abc import Iterable

from .redaction import redacted_command, scrubbed
from .wording import close_matches, suggestion


class ResilienceError(Exception):
    """Root of what this package raises, failed hopes (AssertionError) aside."""


class SetupError(ResilienceError):
    """The experiment is wrong or can't be set up here; the system was not judged."""


def ending(exit_code: int) -> str:
    """Return how a process ended: "exit code 1", "exit code -9 (SIGKILL)", "exit code 137 (a shell's way to say SIGKILL)"."""
    import signal

    names = {number.value: number.name for number in signal.Signals}
    if -exit_code in names:
        return f"exit code {exit_code} ({names[-exit_code]})"
    if exit_code - 128 in names:
        return f"exit code {exit_code} (a shell's way to say {names[exit_code - 128]})"
    return f"exit code {exit_code}"


class BackendUnavailable(SetupError):
    """Nothing here can run what was asked for; the message says what to install."""


class ServerNotReady(SetupError):
    """A process was started and did not answer in time.

    Attributes:
        name: what was started, such as "postgres".
        command: the command line, secrets left out.
        within: seconds that it had.
        log: the end of what it wrote.
        exit_code: its exit code, or None when it still runs.
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
    ) -> None:
        """Tell it.

        Args:
            name: what was started.
            command: the command line; its secrets are not kept.
            within: seconds that it had.
            log: the end of what it wrote; its secrets are not kept.
            exit_code: its exit code, or None when it still runs.
            after: seconds from its start to its end, where they are known.
            seen: what else was seen of it, a line each.
        """
        self.name = name
        self.command = redacted_command(command)
        self.within = within
        self.log = scrubbed(log)
        self.exit_code = exit_code
        if exit_code is None:
            state = f"did not answer within {within:g} s; it is still running"
        else:
            took = f" after {after:.2f} s" if after is not None else ""
            state = f"ended with {ending(exit_code)}{took}, before it was ready"
        tail = "\n".join(self.log.rstrip().splitlines()[-40:]) or "(it wrote nothing)"
        lines = [f"{name} {state}", *(f"  {line}" for line in seen), f"  command: {' '.join(self.command)}"]
        super().__init__("\n".join([*lines, "  its log, last lines:", *(f"    {line}" for line in tail.splitlines())]))


class UnknownFault(SetupError):
    """A fault was named that does not exist."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name = name
        every = sorted(known)
        super().__init__(f"no fault named {name!r}{_near(name, every)}; there are: {', '.join(every)}")


def _near(name: str, known: list[str]) -> str:
    """Which of the known names was meant. The two halves are compared apart: whole names that share one are always alike."""
    target, _, fault = name.partition(".")
    faults: dict[str, list[str]] = {}
    for each in known:
        faults.setdefault(each.partition(".")[0], []).append(each.partition(".")[2])
    if target in faults and not fault:
        return f", which is a target: say which of its faults, such as '{target}.{faults[target][0]}'"
    elsewhere = [each for each in known if each.partition(".")[2] == (fault or target)]
    if elsewhere and (target in faults or not fault):
        return suggestion(elsewhere)
    targets = [target] if target in faults else close_matches(target, faults)
    meant = [f"{each}.{found}" for each in targets for found in close_matches(fault, faults[each])]
    return suggestion(meant or (close_matches(name, known) if not fault else []))


class CannotInject(SetupError):
    """This backend or platform can't do that fault."""


class NoService(SetupError):
    """`resilience.service` was used, and no `resilience_service` fixture says how to start one."""


class HealFailed(ResilienceError):
    """One fault or more could not be taken back."""


class BackendDied(ResilienceError):
    """A server or the proxy ended although no test struck it."""


class VacuousTest(ResilienceError):
    """A test passed although its fault touched nothing: it has tested nothing."""

    def __init__(self, struck: Iterable[tuple[str, str]]) -> None:
        self.struck = list(struck)
        super().__init__(
            "VACUOUS: " + "; ".join(f"{label} {receipt}" for label, receipt in self.struck) + "\n"
            "  The test passed, but nothing came by while the fault lasted, so it has tested nothing. Strike before the traffic\n"
            "  that should feel it, and let that traffic go through `.url` (`.direct_url` goes around the proxy)."
        )


class LeakedResources(ResilienceError):
    """A test passed and left something behind: a connection, a thread, a lock.

    Attributes:
        leaks: one line for each.
    """

    def __init__(self, leaks: Iterable[str], example: str) -> None:
        self.leaks = list(leaks)
        super().__init__(
            "LEAK: " + "\n      ".join(self.leaks) + "\n"
            "  The test passed, and this is still there when all of its fixtures are gone. Close or end it in the test; or say\n"
            f"  that it is meant to stay: @pytest.mark.leaks({example!r})."
        )


class NeverHappened(AssertionError):
    """A probe's hope did not come true in time; the message shows the last answer."""
