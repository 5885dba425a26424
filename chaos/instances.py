"""Additional instances of the service with their own settings, such as a replica or one that starts during an outage."""

from __future__ import annotations

import atexit
import os
import re
import shutil
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
from pytest_resilience import NeverHappened, Resilience, Service, Stack, eventually

ROOT = Path(__file__).parent.parent
LISTENING = re.compile(r"Server LISTENING on http://[\d.]+:(\d+)")
NO_POOL_CHECKS = "3600"  # seconds: a DB_POOL_CHECK_INTERVAL that no test lives to see; production has 30
EXIT_WITHIN = 5.0  # seconds from SIGKILL to the end of the process
# Linux only, PR_SET_PDEATHSIG with SIGKILL: the process dies with the test run, however the run ends.
DIE_WITH_PARENT = "import ctypes; ctypes.CDLL(None).prctl(1, 9); " if sys.platform.startswith("linux") else ""
RUN_SERVICE = DIE_WITH_PARENT + "import runpy; runpy.run_module('service', run_name='__main__')"  # `python -m service`
# The journals of the services of this test run. Without a directory of its own, a service would use that of its user.
JOURNALS = Path(tempfile.mkdtemp(prefix="chaos-journals-"))
atexit.register(shutil.rmtree, JOURNALS, ignore_errors=True)


def delete_journals() -> None:
    """Delete the journals that earlier tests have left, whose jobs would be handed to the next service."""
    for directory in JOURNALS.iterdir():
        shutil.rmtree(directory, ignore_errors=True)


def describe_service(stack: Stack, **changed: str) -> Service:
    """Return how the service starts behind the proxies of a stack, with some settings of the suite changed."""
    return Service(
        [sys.executable, "-m", "service"],
        port_variable="PORT",
        ready="/readyz",
        within=10.0,
        cwd=ROOT,
        env=healthy.settings(stack.postgres.url, stack.redis.url) | {"JOURNAL_DIR": str(JOURNALS / "main")} | changed,
    )


@dataclass
class Instance:
    """An additional process of the service.

    Attributes:
        process: the process.
        log_file: the file with its output.
        client: an HTTP client of this instance.
    """

    process: subprocess.Popen[bytes]
    log_file: Path
    client: httpx.Client

    @property
    def log(self) -> str:
        """The output so far."""
        return self.log_file.read_text(errors="replace")

    def has_exited(self) -> bool:
        """True if the process has ended."""
        return self.process.poll() is not None

    def wait_until_listening(self) -> None:
        """Wait for the log line with the port, and point the client at that port."""

        def port() -> str | None:
            if self.has_exited():
                pytest.fail(f"the service exited with {self.process.returncode} while starting; its log:\n{self.log}")
            found = LISTENING.search(self.log)
            return found[1] if found else None

        try:
            found = eventually(port, within=10.0)
        except NeverHappened as never:
            pytest.fail(
                f"the service runs and does not log `Server LISTENING on http://host:port`; its log:\n{self.log}\n{never}"
            )
        self.client.base_url = f"http://127.0.0.1:{found}"

    def wait_until_ready(self) -> None:
        """Wait until /readyz is 200."""
        try:
            eventually(lambda: self.client.get("/readyz").status_code == 200, within=10.0)
        except NeverHappened as never:
            pytest.fail(
                f"a new instance does not become ready although nothing is wrong; its log:\n{self.log}\n{never}"
            )


def start_process(environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start the service with only the given settings and a minimal environment.

    Args:
        environment: the settings.
        log: the file that its output is appended to.
    """
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    inherited |= {name: value for name, value in os.environ.items() if name.startswith("COVERAGE")}
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-c", RUN_SERVICE],
            cwd=ROOT,
            env={**inherited, "PORT": "0", "JOURNAL_DIR": str(JOURNALS / "others"), **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )


@contextmanager
def another_instance(resilience: Resilience, *, ready: bool = True, **changes: str) -> Iterator[Instance]:
    """Run one more instance behind the same proxies. It is killed when the block ends.

    Args:
        resilience: provides Postgres and Redis.
        ready: wait until the instance is ready; if False, only until it listens.
        changes: settings that differ from the suite's.
    """
    environment = healthy.settings(resilience.postgres.url, resilience.redis.url)
    with tempfile.TemporaryDirectory() as directory:
        environment |= {"JOURNAL_DIR": str(Path(directory, "journal"))} | changes
        process = start_process(environment, Path(directory, "log"))
        with httpx.Client(timeout=10.0, trust_env=False, limits=httpx.Limits(keepalive_expiry=1.0)) as client:
            instance = Instance(process, Path(directory, "log"), client)
            try:
                instance.wait_until_listening()
                if ready:
                    instance.wait_until_ready()
                yield instance
            finally:
                process.kill()
                process.wait(EXIT_WITHIN)
