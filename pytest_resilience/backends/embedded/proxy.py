"""The embedded Toxiproxy: our proxy in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from ...clock import SYSTEM, Clock
from ...processes import ManagedProcess, SupervisorClient
from ..backend import Address
from ..managed_server import HOST
from ..session.child_environ import SERVER_ENVIRON, python_environ
from .server_process import ServerProcess

LISTENING = "Starting Toxiproxy HTTP server"
# Without `site`, with two places to import from in place of all that is installed, and with an empty package in the place of ours,
# whose public names the proxy does not need: a third of the start time.
_RUN = """
import sys
package = type(sys)("pytest_resilience")
package.__path__ = [{package!r}]
sys.modules["pytest_resilience"] = package
sys.path.insert(0, {h11!r})
from pytest_resilience.proxy.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


class ProxyProcess(ServerProcess):
    """The proxy. It chooses its port itself and writes it to its log.

    Args:
        supervisor: who starts it.
        log: the file for its output.
        clock: what to wait with.
    """

    def __init__(self, supervisor: SupervisorClient, *, log: Path, clock: Clock = SYSTEM) -> None:
        super().__init__(supervisor, "proxy", log=log, clock=clock)

    def argv(self) -> list[str]:
        run = _RUN.format(package=str(Path(__file__).parents[2]), h11=_directory_of("h11"))
        # Other users of the machine gain nothing while a session runs; SECURITY.md promises it.
        return [sys.executable, "-I", "-S", "-c", run, "-host", HOST, "-port", "0", "-owner-only", "-loopback-only"]

    def environment(self) -> Mapping[str, str]:
        return {**SERVER_ENVIRON, **python_environ(), "LOG_LEVEL": "warn"}

    def launch(self) -> None:
        self._spawn()

    def is_ready(self, child: ManagedProcess) -> bool:
        """Whether it has written where it listens."""
        for line in self.log_text(self._log_begin).splitlines():
            if LISTENING in line:
                self.address = Address.parse(json.loads(line)["address"])
                return True
        return False


def _directory_of(module: str) -> str:
    spec = importlib.util.find_spec(module)
    assert spec is not None, f"{module} is one of our dependencies"
    assert spec.origin is not None, f"{module} is a package of files"
    return str(Path(spec.origin).parents[1])
