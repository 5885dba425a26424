"""Run Schemathesis against the bundled service, on the embedded Postgres and Redis behind their proxies, with and without faults.

Called by scripts/openapi. The exit status is 1 if the service breaks its document, logs a traceback, or does not recover, and if a fault
affected nothing.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import httpx

from pytest_resilience import NeverHappened, Strike, eventually
from pytest_resilience.backends.embedded.backend import EmbeddedBackend
from pytest_resilience.stack import Stack

ROOT = Path(__file__).resolve().parents[2]
CONFIG = Path(__file__).with_name("openapi.toml")
LISTENING = re.compile(r"Server LISTENING on (http://[\d.]+:\d+)")
SETTINGS = {
    "HOST": "127.0.0.1",
    "PORT": "0",
    "CLEANUP_MIN_INTERVAL": "0",
    "DB_POOL_ACQUIRE_TIMEOUT": "0.2",  # so that a request of a fault does not take seconds
    "DB_COMMAND_TIMEOUT": "0.3",
    "REDIS_BUDGET": "0.1",
}
FAULTS: dict[str, Callable[[Stack], Strike]] = {
    "redis.refuse": lambda stack: stack.redis.refuse(),
    "redis.blackhole": lambda stack: stack.redis.blackhole(),
    "postgres.refuse": lambda stack: stack.postgres.refuse(),
    "postgres.latency": lambda stack: stack.postgres.latency(0.05, jitter=0.05),
    "postgres.blackhole": lambda stack: stack.postgres.blackhole(),
}
CALM_PHASES = "examples,coverage,fuzzing,stateful"
FAULT_PHASES = "fuzzing"
FAULT_EXAMPLES = 3  # of each operation
REQUEST_TIMEOUT = 5  # seconds; every deadline of the service is shorter
STEP_TIMEOUT = 120  # seconds


@dataclass
class Running:
    """The process of the service."""

    process: subprocess.Popen[bytes]
    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    @property
    def url(self) -> str:
        return str(eventually(lambda: next(iter(LISTENING.findall(self.log)), None), within=10))

    def wait_until_ready(self) -> None:
        eventually(lambda: httpx.get(f"{self.url}/readyz", trust_env=False).json()["status"] == "ready", within=10)


@contextmanager
def service(stack: Stack) -> Iterator[Running]:
    """Run the service. It is killed when the block ends."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    with tempfile.TemporaryDirectory() as directory:
        servers = {"DATABASE_URL": stack.postgres.url, "REDIS_URL": stack.redis.url, "JOURNAL_DIR": directory}
        log = Path(directory, "log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "service"],
                cwd=ROOT,
                env=inherited | SETTINGS | servers,
                stdout=output,
                stderr=output,
            )
        try:
            yield Running(process, log)
        finally:
            process.kill()
            process.wait()


def command(arguments: argparse.Namespace, url: str, phases: str, examples: int) -> list[str]:
    """Return the command that tests one state of the service."""
    return [
        *(arguments.schemathesis, "--config-file", str(CONFIG), "run", f"{url}/openapi.json", "--no-color"),
        *("--phases", phases, "--max-examples", str(examples), "--seed", str(arguments.seed)),
        *("--generation-database", "none", "--request-timeout", str(REQUEST_TIMEOUT), "--warnings", "off"),
        *("--suppress-health-check", "all", "--max-failures", "20"),
    ]


def problems(stack: Stack, running: Running, name: str, arguments: argparse.Namespace) -> list[str]:
    """Test the service during one fault, or without one. Return what went wrong."""
    calm = name == "calm"
    phases, examples = (CALM_PHASES, arguments.examples) if calm else (FAULT_PHASES, FAULT_EXAMPLES)
    print(f"===== {name} =====", flush=True)
    running.wait_until_ready()
    url, begun = running.url, len(running.log)
    found = []
    with nullcontext() if calm else FAULTS[name](stack) as strike:
        code = subprocess.run(
            command(arguments, url, phases, examples), cwd=arguments.work, timeout=STEP_TIMEOUT, check=False
        ).returncode
    if code != 0:
        found.append(f"{name}: Schemathesis reports failures, see above")
    if isinstance(strike, Strike) and not strike.receipt.touched:
        found.append(f"{name}: the fault affected nothing")
    if "Traceback" in running.log[begun:]:
        found.append(f"{name}: the service logs a traceback:\n{running.log[begun:]}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schemathesis", required=True, help="the program")
    parser.add_argument("--examples", type=int, default=10, help="of each operation, without faults")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--only", choices=["calm", *FAULTS], help="test this state only")
    arguments = parser.parse_args()
    found: list[str] = []
    stack = Stack(EmbeddedBackend(), seed=arguments.seed)
    try:
        with tempfile.TemporaryDirectory() as arguments.work, service(stack) as running:
            for name in [arguments.only] if arguments.only else ["calm", *FAULTS]:
                found += problems(stack, running, name, arguments)
            try:
                running.wait_until_ready()
            except NeverHappened as never:
                found.append(f"the service does not recover: {never}\n{running.log}")
    finally:
        stack.close()
    print(f"openapi: seed {arguments.seed}: {'passed' if not found else 'FAILED'}")
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
