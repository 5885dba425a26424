"""The descriptors that a process has open for longer than a moment."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pytest_resilience import eventually
from pytest_resilience.targets import procfs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")

# A program that has a file open for 2 ms, and then none while it does something else.
READS = """
import time

def work(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass

print("ready", flush=True)
while True:
    with open("/proc/self/status"):
        work(0.002)
    """
READS_AND_RESTS = READS + "time.sleep(0.002)"
NEVER_RESTS = READS + "work(0.002)"


@contextmanager
def child(code: str) -> Iterator[int]:
    """Run a program and return its process id, once it has started its work."""
    command = [sys.executable, "-I", "-S", "-c", code]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process.pid
        finally:
            process.kill()


def test_a_file_that_is_open_for_a_moment_does_not_count() -> None:
    with child(READS_AND_RESTS) as pid:
        for seen in ({0, 1, 2}, {0, 1, 2, 3}):
            eventually(lambda seen=seen: procfs.open_descriptors(pid) == seen, within=5.0, every=0.0001)
        for _ in range(50):
            assert procfs.settled_descriptors(pid) == {0, 1, 2}


def test_a_process_that_never_rests_has_those_that_were_always_open() -> None:
    with child(NEVER_RESTS) as pid:
        assert procfs.settled_descriptors(pid) == {0, 1, 2}
