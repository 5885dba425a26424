"""Looking up names off the loop."""

from __future__ import annotations

import socket
import threading

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
