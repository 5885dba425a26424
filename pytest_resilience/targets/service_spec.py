"""The description of the start of the service under test."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import SetupError
from ..python_command import PythonCommand
from ..redaction import is_secret, redacted_command

__tracebackhide__ = True  # errors of a description point to its author's line


@dataclass(frozen=True, repr=False)
class Service:
    """The description of how to start the service under test.

    Args:
        command: program and arguments, such as [sys.executable, "-m", "shop"].
        port_variable: the environment variable for its port.
        ready: a path that answers 2xx or 3xx once the service is ready.
        within: seconds until the service must be ready.
        env: variables added to the environment of this process.
        cwd: the working directory; None for that of the test run.
        host: the host name or address of the service.
        restart_between_tests: start a fresh process if the last test used the service or struck anything. A service keeps
            caches, circuit breakers and pools in its memory. False saves the start, and that state leaks between tests.
        preload: modules of a Python service, such as ("shop.app",). A fork server imports them once, and each start is a fork of it,
            which saves the time of these imports. They must not start threads, open connections or read settings from the
            environment while they are imported; those that do are named by an error at the first start. Only on Linux; elsewhere
            each start imports them.
    """

    command: Sequence[str]
    port_variable: str = field(default="PORT", kw_only=True)
    ready: str = field(default="/", kw_only=True)
    within: float = field(default=10.0, kw_only=True)
    env: Mapping[str, str] = field(default_factory=dict, kw_only=True, repr=False)
    cwd: str | os.PathLike[str] | None = field(default=None, kw_only=True)
    host: str = field(default="127.0.0.1", kw_only=True)
    restart_between_tests: bool = field(default=True, kw_only=True)
    preload: Sequence[str] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.command, str) or not self.command:
            shown = redacted_command([self.command])[0] if isinstance(self.command, str) else self.command
            raise SetupError(f"Service(command=...) is a list such as [sys.executable, '-m', 'shop'], got {shown!r}")
        if not self.ready.startswith("/"):
            raise SetupError(f"Service(ready=...) is a path such as '/readyz', got {self.ready!r}")
        if not self.within > 0:
            raise SetupError(f"Service(within=...) is seconds above 0, got {self.within!r}")
        self._check_preload()
        env: Mapping[str, Any] = self.env
        wrong = [name for name, value in env.items() if not isinstance(value, str)]
        if wrong:
            raise SetupError(f"Service(env=...) takes strings; these are not: {', '.join(wrong)}")

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
        secrets = {name: value for name, value in os.environ.items() if is_secret(name)}
        given = {name: value for name, value in self.env.items() if is_secret(name) or _may_be_secret(value)}
        return redacted_command(self.command, secrets | given)

    def __repr__(self) -> str:
        return f"Service({self.redacted_command_line!r}, ready={self.ready!r}, within={self.within:g})"


def _may_be_secret(value: str) -> bool:
    """True if a value may be a secret, that is, if it is no short word, number, path or URL without a password."""
    return len(value) >= 8 and not value.isdigit() and not value.startswith(("/", ".")) and "://" not in value
