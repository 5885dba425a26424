"""The proxy of this package in a separate process, as the Toxiproxy of a session."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path

from ...processes import ManagedProcess
from ..backend import Address
from ..managed_server import HOST
from .child_environ import SERVER_ENVIRON, python_environ
from .isolated_python import isolated_command
from .server_process import ProcessContext, ServerProcess

LISTENING = "Starting Toxiproxy HTTP server"


class ProxyProcess(ServerProcess):
    """The proxy. It binds a free port and writes the address to its log.

    Args:
        context: the session.
        tls_files: the directory of the certificates of its proxies; None for no TLS.
    """

    def __init__(self, context: ProcessContext, *, tls_files: Path | None = None) -> None:
        super().__init__(context, "proxy")
        self._tls_files = tls_files

    def argv(self) -> list[str]:
        # Other users of the machine can't use the proxy, as SECURITY.md promises.
        flags = ["-host", HOST, "-port", "0", "-owner-only", "-loopback-only"]
        if self._tls_files is not None:
            flags += ["-tls-files", str(self._tls_files)]
        # In a third of the time that a Python with all of site-packages takes.
        return isolated_command("proxy.__main__", *flags, import_paths=(_directory_of("h11"),))

    def environment(self) -> Mapping[str, str]:
        return {**SERVER_ENVIRON, **python_environ(), "LOG_LEVEL": "warn"}

    def launch(self) -> None:
        self._spawn()

    def is_ready(self, child: ManagedProcess) -> bool:
        """True if the log has the address at which the proxy listens."""
        for line in self.log_text(self._log_begin).splitlines():
            if LISTENING in line:
                self.address = Address.parse(json.loads(line)["address"])
                return True
        return False


def _directory_of(module: str) -> str:
    spec = importlib.util.find_spec(module)
    assert spec is not None, f"{module} is a dependency of this package"
    assert spec.origin is not None, f"{module} is a package of files"
    return str(Path(spec.origin).parents[1])
