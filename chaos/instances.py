"""Additional instances of the service with their own settings, such as a replica or one that starts during an outage."""

from __future__ import annotations

import atexit
import itertools
import os
import re
import shutil
import ssl
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
from pytest_resilience import ManagedProcess, NeverHappened, Resilience, Service, Stack, eventually

# All modules that the service imports until it is ready.
PRELOADED = (
    "service.app",
    "service.http.connections",
    "service.logging_setup",
    "service.memory.malloc",
    "service.settings",
    "uvicorn.lifespan.on",
    "uvicorn.loops.asyncio",
    "asyncpg",
    "redis.asyncio",
)
ROOT = Path(__file__).parent.parent
STATISTICS = "[Memory Stats]"
FORCED_GC, COLLECTED = "forcing GC", "cache entries left"  # in the log before and after a collection
# The shortest intervals: a line of statistics for each check of the guard.
FREQUENT_CHECKS = {"MEMORY_CHECK_INTERVAL": "0.05", "MEMORY_STATS_INTERVAL": "0.05"}
# Reads of campaigns of 40 KB. 20 fill the last tenth of a limit of 12 MB, and faster than the guard's interval.
READS_BETWEEN_CHECKS = 10
LISTENING = re.compile(r"Server LISTENING on http://[\d.]+:(\d+)")
COMMAND = [sys.executable, "-m", "service"]
NUMBERS = itertools.count(1)
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
NO_POOL_CHECKS = "3600"  # seconds: a DB_POOL_CHECK_INTERVAL that no test lives to see; production has 30
RUN_SERVICE = "import runpy; runpy.run_module('service', run_name='__main__')"  # `python -m service`
# Linux only, PR_SET_PDEATHSIG with SIGKILL: the process dies with the test run, however the run ends.
DIE_WITH_PARENT = "import ctypes; ctypes.CDLL(None).prctl(1, 9); " if sys.platform.startswith("linux") else ""
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
        COMMAND,
        port_variable="PORT",
        ready="/readyz",
        within=10.0,
        cwd=ROOT,
        preload=PRELOADED,
        env=healthy.settings(stack.postgres.url, stack.redis.url) | {"JOURNAL_DIR": str(JOURNALS / "main")} | changed,
    )


@dataclass
class Instance:
    """An additional process of the service.

    Attributes:
        process: the process.
        client: an HTTP client of this instance.
    """

    process: ManagedProcess
    client: httpx.Client

    @property
    def log(self) -> str:
        """The output so far."""
        return self.process.log_text()

    def has_exited(self) -> bool:
        """True if the process has ended."""
        return not self.process.running

    def wait_until_listening(self) -> None:
        """Wait for the log line with the port, and point the client at that port."""

        def port() -> str | None:
            if self.has_exited():
                pytest.fail(f"the service exited with {self.process.exit_code()} while starting; its log:\n{self.log}")
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

    def wait_for_statistics(self, count: int) -> None:
        """Wait for a number of new lines of memory statistics, or for the end of the process. The guard checks memory as often."""
        before = self.log.count(STATISTICS)
        try:
            eventually(lambda: self.log.count(STATISTICS) >= before + count or self.has_exited(), within=20.0)
        except NeverHappened as never:
            pytest.fail(f"{count} checks of memory are due, and the log has no {count} lines of statistics: {never}")

    def wait_for_guard(self) -> None:
        """Wait for a check of the guard, and for the end of the collection that it forces. FREQUENT_CHECKS must be set."""
        self.wait_for_statistics(2)
        try:
            eventually(lambda: self.log.count(COLLECTED) >= self.log.count(FORCED_GC) or self.has_exited(), within=20.0)
        except NeverHappened as never:
            pytest.fail(f"the guard has forced a collection, which does not end: {never}")


def minimal_environment(settings: dict[str, str]) -> dict[str, str]:
    """Return the given settings, and of this process's environment only the variables that a Python needs to start."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("PYTHON", "LD_", "LC_", "LANG", "COVERAGE"))
    }
    inherited |= {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return {**inherited, "PYTHONUNBUFFERED": "1", "PORT": "0", "JOURNAL_DIR": str(JOURNALS / "others"), **settings}


def start_process(settings: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start the service as a user does, without preloaded modules, for a test about the start.

    Args:
        settings: all its settings.
        log: the file that its output is appended to.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-c", DIE_WITH_PARENT + RUN_SERVICE],
            cwd=ROOT,
            env=minimal_environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )


@contextmanager
def another_instance(
    resilience: Resilience, *, ready: bool = True, first: str = "", preloaded: bool = True, **changes: str
) -> Iterator[Instance]:
    """Run one more instance behind the same proxies. It is killed when the block ends.

    Args:
        resilience: provides Postgres and Redis.
        ready: wait until the instance is ready; if False, only until it listens.
        first: code to run in the process before the service is imported.
        preloaded: fork the instance from a process that has imported the service. Such instances share each value that a module
            computes when it is imported, such as a random name. A test about what two instances share needs False.
        changes: settings that differ from the suite's.
    """
    settings = healthy.settings(resilience.postgres.url, resilience.redis.url)
    with tempfile.TemporaryDirectory() as directory, client_of_an_instance() as client:
        settings |= {"JOURNAL_DIR": str(Path(directory, "journal"))} | changes
        command = [sys.executable, "-c", first + RUN_SERVICE] if first else COMMAND
        preload = PRELOADED if preloaded and not first else ()
        name = f"instance-{next(NUMBERS)}"
        process = resilience.spawn(name, command, env=minimal_environment(settings), cwd=ROOT, preload=preload)
        instance = Instance(process, client)
        try:
            instance.wait_until_listening()
            if ready:
                instance.wait_until_ready()
            yield instance
        except BaseException:
            sys.stdout.write(f"log of {name}:\n{instance.log}\n")  # pytest shows it with the failure
            raise
        finally:
            process.kill()


def client_of_an_instance() -> httpx.Client:
    """Return a client whose base URL is not known yet. `verify` saves the load of all certificates, which HTTP does not use."""
    return httpx.Client(timeout=10.0, trust_env=False, verify=NO_TLS, limits=httpx.Limits(keepalive_expiry=1.0))
