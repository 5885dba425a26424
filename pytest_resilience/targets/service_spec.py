"""How the service under test is started, as its owners say it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import SetupError
from ..redaction import is_secret, redacted_command

__tracebackhide__ = True  # an error of a description is its author's


@dataclass(frozen=True, repr=False)
class Service:
    """How to start the service under test.

    Args:
        command: program and arguments, such as [sys.executable, "-m", "shop"].
        port_variable: environment variable that tells it its port.
        ready: path that answers 2xx or 3xx once it can serve.
        within: seconds that it has to get there.
        env: variables added to this process's environment.
        cwd: its working directory; None for the test run's.
        host: where it can be reached.
        restart_between_tests: start a fresh process when the last test used the service or struck anything. A service keeps
            caches, breakers and pools in its memory; False saves the start and lets them leak from test to test.
    """

    command: Sequence[str]
    port_variable: str = field(default="PORT", kw_only=True)
    ready: str = field(default="/", kw_only=True)
    within: float = field(default=10.0, kw_only=True)
    env: Mapping[str, str] = field(default_factory=dict, kw_only=True, repr=False)
    cwd: str | os.PathLike[str] | None = field(default=None, kw_only=True)
    host: str = field(default="127.0.0.1", kw_only=True)
    restart_between_tests: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.command, str) or not self.command:
            said = redacted_command([self.command])[0] if isinstance(self.command, str) else self.command
            raise SetupError(f"Service(command=...) is a list such as [sys.executable, '-m', 'shop'], got {said!r}")
        if not self.ready.startswith("/"):
            raise SetupError(f"Service(ready=...) is a path such as '/readyz', got {self.ready!r}")
        if not self.within > 0:
            raise SetupError(f"Service(within=...) is seconds above 0, got {self.within!r}")
        env: Mapping[str, Any] = self.env
        wrong = [name for name, value in env.items() if not isinstance(value, str)]
        if wrong:
            raise SetupError(f"Service(env=...) takes strings; these are not: {', '.join(wrong)}")

    @property
    def redacted_command_line(self) -> list[str]:
        """The command as a message may show it: values of `env`, and secrets of this process's environment, by their names."""
        secrets = {name: value for name, value in os.environ.items() if is_secret(name)}
        given = {name: value for name, value in self.env.items() if is_secret(name) or _may_be_secret(value)}
        return redacted_command(self.command, secrets | given)

    def __repr__(self) -> str:
        return f"Service({self.redacted_command_line!r}, ready={self.ready!r}, within={self.within:g})"


def _may_be_secret(value: str) -> bool:
    """True if a value may be a secret whatever its name: neither a short word, nor a number, a path or a URL without a password."""
    return len(value) >= 8 and not value.isdigit() and not value.startswith(("/", ".")) and "://" not in value
