"""More instances of the service, with settings of their own: a replica, one that starts in bad weather, one that is told to stop."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

import healthy
from pytest_resilience import NeverHappened, Resilience, eventually

ROOT = Path(__file__).parent.parent
LISTENING = re.compile(r"Server LISTENING on http://[\d.]+:(\d+)")
NO_POOL_CHECKS = "3600"  # seconds: with this DB_POOL_CHECK_INTERVAL no check of the pool comes in the way; in production they are far apart
ENDS_WITHIN = 5.0  # seconds that a killed process has to be gone
# `python -m service`, which dies with the test run, however that ends (Linux: PR_SET_PDEATHSIG, SIGKILL).
DIES_WITH_US = "import ctypes; ctypes.CDLL(None).prctl(1, 9); " if sys.platform.startswith("linux") else ""
RUN = DIES_WITH_US + "import runpy; runpy.run_module('service', run_name='__main__')"


@dataclass
class Instance:
    """One more process of the service.

    Attributes:
        process: the process.
        client: asks it.
    """

    process: subprocess.Popen[bytes]
    log_file: Path
    client: httpx.Client

    @property
    def log(self) -> str:
        """What it wrote so far."""
        return self.log_file.read_text(errors="replace")

    def has_exited(self) -> bool:
        return self.process.poll() is not None

    def wait_until_listening(self) -> None:
        """Wait until it says that it listens, and ask it there from now on."""

        def port() -> str | None:
            if self.has_exited():
                pytest.fail(f"the service ended with {self.process.returncode} at its start; its log:\n{self.log}")
            found = LISTENING.search(self.log)
            return found[1] if found else None

        try:
            found = eventually(port, within=10.0)
        except NeverHappened as never:
            pytest.fail(
                f"the service runs and does not say `Server LISTENING on http://host:port`; its log:\n{self.log}\n{never}"
            )
        self.client.base_url = f"http://127.0.0.1:{found}"

    def wait_until_ready(self) -> None:
        """Wait until it is ready."""
        try:
            eventually(lambda: self.client.get("/readyz").status_code == 200, within=10.0)
        except NeverHappened as never:
            pytest.fail(f"nothing is wrong, and a new instance does not become ready; its log:\n{self.log}\n{never}")


def start_process(environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """The service as a process, with nothing in its environment that is not meant for it."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    kept |= {name: value for name, value in os.environ.items() if name.startswith("COVERAGE")}
    with log.open("ab") as stderr:
        return subprocess.Popen(
            [sys.executable, "-c", RUN],
            cwd=ROOT,
            env={**kept, "PORT": "0", **environment},
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
        )


@contextmanager
def another_instance(resilience: Resilience, *, ready: bool = True, **changes: str) -> Iterator[Instance]:
    """One more instance behind the same proxies, with some settings changed; killed when the block ends.

    Args:
        resilience: whose Postgres and Redis it uses.
        ready: wait until it is ready; else only until it listens.
        changes: settings that differ from the suite's.
    """
    environment = healthy.settings(resilience.postgres.url, resilience.redis.url) | changes
    with tempfile.TemporaryDirectory() as scratch:
        process = start_process(environment, Path(scratch, "log"))
        with httpx.Client(timeout=10.0, trust_env=False, limits=httpx.Limits(keepalive_expiry=1.0)) as client:
            instance = Instance(process, Path(scratch, "log"), client)
            try:
                instance.wait_until_listening()
                if ready:
                    instance.wait_until_ready()
                yield instance
            finally:
                process.kill()
                process.wait(ENDS_WITHIN)
