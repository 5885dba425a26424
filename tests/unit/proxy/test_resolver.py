"""Looking up names off the loop."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from pytest_resilience import eventually
from pytest_resilience.proxy.address import AddressError
from pytest_resilience.proxy.event_loop import EventLoop
from pytest_resilience.proxy.resolver import LookupResult, Resolver


def test_concurrent_requests_share_a_look_up_that_does_not_block_the_loop() -> None:
    loop = EventLoop(on_error=print)
    go_on = threading.Event()
    lookups: list[str] = []

    def find(host: str) -> list[tuple[int, str]]:
        lookups.append(host)
        go_on.wait(5)
        if host == "bad":
            raise AddressError("lookup bad: no such host")
        return [(socket.AF_INET, "127.0.0.1")]

    answers: list[LookupResult] = []

    def take(found: LookupResult) -> None:
        answers.append(found)
        if len(answers) == 3:
            loop.stop()

    resolver = Resolver(loop, find)
    for host in ("good", "good", "bad"):
        resolver.resolve(host, take)
    loop.call_at(loop.now(), go_on.set)  # only a loop that runs can let them find anything
    loop.run()
    loop.close()
    resolver.close()
    assert sorted(lookups) == ["bad", "good"]
    assert answers.count([(socket.AF_INET, "127.0.0.1")]) == 2
    assert [str(each) for each in answers if isinstance(each, AddressError)] == ["lookup bad: no such host"]


def test_a_look_up_that_ends_after_close_writes_to_no_file() -> None:
    """Another file may have the number of the closed pipe by then."""
    loop = EventLoop(on_error=print)
    go_on = threading.Event()

    def find(_: str) -> list[tuple[int, str]]:
        go_on.wait(5)
        return [(socket.AF_INET, "127.0.0.1")]

    resolver = Resolver(loop, find)
    threads = set(Path("/proc/self/task").iterdir())
    resolver.resolve("slow", lambda _: None)
    started = set(Path("/proc/self/task").iterdir()) - threads
    assert started
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    number = resolver._pipe[1]
    resolver.close()
    loop.close()
    os.dup2(writer, number)  # the file that has the number now
    go_on.set()
    eventually(lambda: started.isdisjoint(Path("/proc/self/task").iterdir()), within=5)
    with pytest.raises(BlockingIOError):
        os.read(reader, 1)
    for fd in {reader, writer, number}:
        os.close(fd)
