"""The description of the start of a service under test."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import SetupError
from ..python_command import PythonCommand
from ..redaction import is_secret, redacted_command
from .placeholders import has_placeholder

__tracebackhide__ = True  # errors of a description point to its author's line

Restart = Literal["always", "struck", "never"]
Ready = str | int | re.Pattern[str] | Callable[..., object] | None
RESTARTS = ("always", "struck", "never")
_SLASHLESS = re.compile(
    r"readyz|healthz|livez|[\w.-]+/[\w./-]*"
)  # a path whose first character was forgotten, and no log line


@dataclass(frozen=True, repr=False)
class Service:
    """The description of how to start a service under test.

    `{port}` in the command, in values of `env`, in `setup` and in `ready` is the first port, and `{metrics}` the port that is
    named "metrics" in `ports`. Other braces stay.

    Args:
        command: program and arguments, such as [sys.executable, "-m", "shop"].
        port_variable: the environment variable for its first port; None for none.
        ready: what makes the service ready. A path ("/readyz") or URL ("http://127.0.0.1:{metrics}/ready") that answers 2xx or 3xx;
            a TCP port that accepts ("{port}", or a number); other text, or a compiled pattern, that a line of its log contains; a
            function that returns a true value, which may take a `ServiceStart`; None if the process only has to run.
        within: seconds until the service must be ready.
        env: variables added to the environment of this process.
        cwd: the working directory; None for that of the test run.
        host: the host name or address of the service.
        restart: when a test begins with a fresh process. A service keeps caches, circuit breakers and pools in its memory.
            "always": if any test may have used the present one. "struck": if the last test struck a fault, on any target.
            "never": only if it does not run. None for "always", or "never" with `restart_between_tests=False`.
        restart_between_tests: an older form of `restart`: True for "always", False for "never".
        ports: the names of its ports.
        port_pattern: the pattern of the line in which a service logs the port that it has chosen: its group with the name of a port,
            or its first group, is the number. `{port}` is 0 then. A pattern in `ready` with such a group does that too. None if the
            service takes the port that it is given.
        setup: commands that run one after the other before the first start, against the clean database, such as migrations. Each is a
            list; a list of texts is one command. Each test begins with the result.
        setup_within: seconds for each of these commands.
        after: names of services that have to be ready before this one starts. Others start side by side with it.
        timeout: seconds after which a request of the client fails, unless the request sets `timeout=`; None for never.
        preload: modules of a Python service, such as ("shop.app",). A fork server imports them once, and each start is a fork of it,
            which saves the time of these imports. They must not start threads, open connections or read settings from the
            environment while they are imported; those that do are named by an error at the first start. Only on Linux; elsewhere
            each start imports them.
    """

    command: Sequence[str]
    port_variable: str | None = field(default="PORT", kw_only=True)
    ready: Ready = field(default="/", kw_only=True)
    within: float = field(default=10.0, kw_only=True)
    env: Mapping[str, str] = field(default_factory=dict, kw_only=True, repr=False)
    cwd: str | os.PathLike[str] | None = field(default=None, kw_only=True)
    host: str = field(default="127.0.0.1", kw_only=True)
    restart_between_tests: bool = field(default=True, kw_only=True)
    restart: Restart | None = field(default=None, kw_only=True)
    ports: Sequence[str] = field(default=("http",), kw_only=True)
    port_pattern: str | re.Pattern[str] | None = field(default=None, kw_only=True)
    setup: Sequence[str] | Sequence[Sequence[str]] = field(default=(), kw_only=True)
    setup_within: float = field(default=60.0, kw_only=True)
    after: Sequence[str] = field(default=(), kw_only=True)
    timeout: float | None = field(default=10.0, kw_only=True)
    preload: Sequence[str] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        _check_command("command", self.command)
        _check_ready(self.ready)
        _check_seconds("within", self.within)
        _check_seconds("setup_within", self.setup_within)
        if self.timeout is not None:
            _check_seconds("timeout", self.timeout)
        self._check_preload()
        _check_env(self.env)
        _check_port_variable(self.port_variable)
        _check_restart(self.restart, self.restart_between_tests)
        _check_names("ports", self.ports, "http", least=1)
        _check_names("after", self.after, "web")
        _check_port_pattern(self.port_pattern, self.ports)
        for command in self.setup_commands:
            _check_command("setup", command)

    @property
    def restarts(self) -> Restart:
        """The value of `restart`, or of its older form."""
        return self.restart or ("always" if self.restart_between_tests else "never")

    @property
    def setup_commands(self) -> list[Sequence[str]]:
        """The commands before the first start."""
        words: Sequence[Any] = self.setup
        return [words] if words and all(isinstance(each, str) for each in words) else list(words)

    @property
    def logged_ports(self) -> re.Pattern[str] | None:
        """The pattern of the line in which the service logs its ports, or None if it takes those that it is given."""
        if self.port_pattern is not None:
            return re.compile(self.port_pattern)
        is_logged = isinstance(self.ready, re.Pattern) and {"port", *self.ports} & {*self.ready.groupindex}
        return self.ready if is_logged and isinstance(self.ready, re.Pattern) else None

    @property
    def has_port(self) -> bool:
        """True if the service has a port that it is given, that is requested, or that it logs."""
        texts = [*self.command, *self.env.values(), *(word for command in self.setup_commands for word in command)]
        ready = self.ready if isinstance(self.ready, str) else ""
        return (
            self.port_variable is not None
            or self.logged_ports is not None
            or ready.startswith("/")
            or any(has_placeholder(text, ("port", *self.ports)) for text in (*texts, ready))
        )

    def _check_preload(self) -> None:
        names: Sequence[Any] = self.preload
        if isinstance(names, str) or not all(isinstance(name, str) and name for name in names):
            raise SetupError(f"Service(preload=...) is a sequence of module names such as ('shop.app',), got {names!r}")
        if names:
            try:
                command = PythonCommand.parse(self.command)
                if f"{command.program}.__main__" in names:
                    raise SetupError(
                        f"{command.program}.__main__ would run a second time; preload the modules that it imports"
                    )
            except SetupError as error:
                shown = " ".join(self.redacted_command_line)
                raise SetupError(
                    f"Service(preload=...) needs the command of a Python program, got {shown!r}: {error}"
                ) from None

    @property
    def redacted_command_line(self) -> list[str]:
        """The command for messages. Values of `env` and secrets of this process's environment are replaced by their names."""
        return self.redacted(self.command)

    def redacted(self, command: Iterable[object]) -> list[str]:
        """Return a command for messages, as `redacted_command_line`."""
        secrets = {name: value for name, value in os.environ.items() if is_secret(name)}
        given = {name: value for name, value in self.env.items() if is_secret(name) or _may_be_secret(value)}
        return redacted_command(command, secrets | given)

    def __repr__(self) -> str:
        return f"Service({self.redacted_command_line!r}, ready={self.ready!r}, within={self.within:g})"


def _check_command(name: str, command: object) -> None:
    if isinstance(command, str) or not isinstance(command, Sequence) or not command:
        shown = redacted_command([command])[0] if isinstance(command, str) else command
        raise SetupError(f"Service({name}=...) is a list such as [sys.executable, '-m', 'shop'], got {shown!r}")


def _check_ready(ready: object) -> None:
    if isinstance(ready, str) and ready.startswith("https://"):
        raise SetupError(f"Service(ready={ready!r}): only http:// is requested; a function can request https://")
    if isinstance(ready, str) and _SLASHLESS.fullmatch(ready):
        raise SetupError(
            f"Service(ready=...) is a path such as '/readyz', got {ready!r}, which does not begin with /; a pattern, as of re.compile, is "
            "searched in the log in any form"
        )
    is_number = isinstance(ready, int) and not isinstance(ready, bool) and 0 < ready < 1 << 16
    if not (ready is None or is_number or callable(ready) or (isinstance(ready, str | re.Pattern) and ready)):
        raise SetupError(
            f"Service(ready=...) is a path such as '/readyz', a URL, a TCP port, a text or compiled pattern of its log, a function, "
            f"or None, got {ready!r}"
        )


def _check_seconds(name: str, value: object) -> None:
    if not isinstance(value, int | float) or not value > 0:
        raise SetupError(f"Service({name}=...) is seconds above 0, got {value!r}")


def _check_env(env: Mapping[str, Any]) -> None:
    if not isinstance(env, Mapping):
        raise SetupError(f"Service(env=...) is a mapping of names to texts, got a {type(env).__name__}")
    items: Iterable[tuple[object, object]] = env.items()
    wrong = [str(name) for name, value in items if not (isinstance(name, str) and isinstance(value, str))]
    if wrong:
        raise SetupError(f"Service(env=...) takes strings; these are not: {', '.join(wrong)}")
    if impossible := [name or "''" for name, value in env.items() if not _is_variable(name) or "\0" in value]:
        raise SetupError(
            f"Service(env=...) takes names without = and NUL, and no value with NUL; these are wrong: {', '.join(impossible)}"
        )


def _is_variable(name: object) -> bool:
    return isinstance(name, str) and name != "" and not {"=", "\0"} & set(name)


def _check_port_variable(name: object) -> None:
    if name is not None and not _is_variable(name):
        raise SetupError(f"Service(port_variable=...) is the name of a variable or None, got {name!r}")


def _check_restart(restart: object, between_tests: bool) -> None:
    if restart is not None and restart not in RESTARTS:
        raise SetupError(f"Service(restart=...) is {', '.join(map(repr, RESTARTS))} or None, got {restart!r}")
    if not between_tests and restart not in (None, "never"):
        raise SetupError(f"Service(restart={restart!r}, restart_between_tests=False): the second means restart='never'")


def _check_names(argument: str, names: object, example: str, *, least: int = 0) -> None:
    if isinstance(names, str) or not isinstance(names, Sequence) or len(names) < least:
        raise SetupError(f"Service({argument}=...) is a list of names such as ({example!r},), got {names!r}")
    wrong = [each for each in names if not re.fullmatch("[a-z][a-z0-9_]*", str(each))]
    if wrong or len(set(names)) < len(names):
        raise SetupError(
            f"Service({argument}={names!r}): each name is once there, with lower case letters, digits and _ only"
        )


def _check_port_pattern(pattern: str | re.Pattern[str] | None, ports: Sequence[str]) -> None:
    if pattern is None:
        return
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise SetupError(f"Service(port_pattern={pattern!r}): {error}") from None
    if not compiled.groups:
        raise SetupError(f"Service(port_pattern={pattern!r}) needs a group around the number, such as r'port (\\d+)'")
    if len(ports) > 1 and set(ports) - {*compiled.groupindex}:
        raise SetupError(
            f"Service(port_pattern={pattern!r}, ports={ports!r}): each port needs a group, such as (?P<{ports[0]}>\\d+)"
        )


def _may_be_secret(value: str) -> bool:
    """True if a value may be a secret, that is, if it is no short word, number, path or URL without a password."""
    return len(value) >= 8 and not value.isdigit() and not value.startswith(("/", ".")) and "://" not in value
