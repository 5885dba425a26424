"""The process of an HTTP stub, and the client of its control interface."""

from __future__ import annotations

import importlib.util
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..backends.backend import Address, Backend
from ..backends.session.child_environ import SERVER_ENVIRON, python_environ
from ..backends.session.isolated_python import isolated_command
from ..backends.session.ports import free_port, taken_or, with_free_port
from ..clock import SYSTEM, wait_until
from ..errors import BackendDied, ending
from ..http_stub import CONTROL, HOST, TOKEN_VARIABLE
from ..processes import ManagedProcess
from ..redaction import remember

START_WITHIN = 20.0  # seconds; it takes 0.2, so this is for machines that are nearly dead
ANSWER_WITHIN = 5.0  # seconds for a command; it takes a millisecond
POLL = 0.003  # seconds


class StubProcess:
    """The process of a stub. It keeps its port.

    Args:
        name: the name of the stub.
        backend: its supervisor starts the process.

    Attributes:
        address: the address at which the stub listens.
    """

    def __init__(self, name: str, backend: Backend) -> None:
        self.name = name
        self.address = Address(HOST, 0)
        self._backend = backend
        self._child: ManagedProcess | None = None
        self._log_begin = 0
        self._token = secrets.token_hex(16)
        remember(self._token)

    def prepare(self) -> None:
        """Start the process unless it runs, and forget all answers and requests.

        Raises:
            ServerNotReady: the process ended, or did not answer in time.
        """
        if self._child is None or not self._child.running:
            self._start()
        self.command("DELETE", "all")
        self._log_begin = self._process.log_size()

    @property
    def _process(self) -> ManagedProcess:
        assert self._child is not None, "prepare starts it"
        return self._child

    def _start(self) -> None:
        is_first = self._child is None

        def attempt(number: int) -> None:
            if is_first or number:
                self.address = Address(HOST, free_port())
            self._child = self._spawn()
            self._wait_until_ready(self._child)

        with_free_port(attempt, tries=3 if is_first else 1)

    def _spawn(self) -> ManagedProcess:
        command = isolated_command("http_stub.server", str(self.address.port), import_paths=(_directory_of("h11"),))
        environment = {**SERVER_ENVIRON, **python_environ(), TOKEN_VARIABLE: self._token}
        return self._backend.spawn(f"stub-{self.name}", command, env=environment)

    def _wait_until_ready(self, child: ManagedProcess) -> None:
        def outcome() -> str | None:
            if child.exit_code() is not None:
                return "ended"
            try:
                self.command("GET", "ready", within=1.0)
            except OSError:
                return None
            return "ready"

        found = wait_until(outcome, within=START_WITHIN, every=POLL, clock=SYSTEM)
        if found == "ready":
            return
        error = child.not_ready(START_WITHIN, self._log_begin)
        child.kill()
        raise taken_or(error, child.log_text(self._log_begin)) if found == "ended" else error

    def command(
        self, method: str, name: str, body: Mapping[str, Any] | None = None, within: float = ANSWER_WITHIN
    ) -> Any:
        """Send a command to the stub, and return its result.

        Args:
            method: the method of the control interface.
            name: the name of the command.
            body: its argument.
            within: seconds to wait for the connection, and again for the answer.

        Raises:
            OSError: the stub does not answer.
        """
        return self.command_at(self.address, method, name, body, within=within)

    def command_at(
        self, address: Address, method: str, name: str, body: Mapping[str, Any] | None = None, *, within: float
    ) -> Any:
        """Send a command to the stub by another address, such as that of its proxy."""
        from http.client import HTTPConnection, HTTPException  # imports ssl

        connection = HTTPConnection(*address, timeout=within)
        try:
            connection.request(
                method,
                f"{CONTROL}{self._token}/{name}",
                None if body is None else json.dumps(body),
                {"Connection": "close"},
            )
            return json.loads(connection.getresponse().read())
        except (HTTPException, ValueError) as error:
            raise ConnectionError(f"no answer of the stub: {error}") from None
        finally:
            connection.close()

    def kill(self) -> None:
        """End the process."""
        self._process.kill()

    def log_text(self) -> str:
        """Return the requests and the statuses of their answers since the test began, one line each."""
        return self._process.log_text(self._log_begin)

    def check(self) -> None:
        """Check that the process runs.

        Raises:
            BackendDied: it has ended.
        """
        if (code := self._process.exit_code()) is not None:
            raise BackendDied(f"the stub {self.name} ended with {ending(code)} although no test struck it")


def _directory_of(module: str) -> str:
    spec = importlib.util.find_spec(module)
    assert spec is not None, f"{module} is a dependency of this package"
    assert spec.origin is not None, f"{module} is a package of files"
    return str(Path(spec.origin).parents[1])
