"""Named incidents, which combine faults as they occur in production.

Each is a generator of phases. The body of your loop runs while a phase lasts, and the next turn heals it. The last phase is always
"back", with everything healed. Leaving the loop early heals everything too.

    for phase in redis_failover(resilience):
        assert resilience.service.get("/api/campaigns/1").status_code == 200, phase
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Literal

from .resilience import Resilience
from .unused import must_be_iterated

BACK = "back"


@must_be_iterated
def redis_failover(resilience: Resilience) -> Iterator[str]:
    """Fail over from a dead primary to a replica.

    In production, connections break, and for seconds no server answers ("gone"). Then clients reach a server that is still a replica,
    because a name is cached or the promotion is not complete. It answers reads with old data and writes with READONLY ("stale"). A
    client that does not treat READONLY as a lost connection writes to the wrong server for as long as its pool lives.
    """
    with resilience.redis.refuse():
        yield "gone"
    with resilience.redis.readonly():
        yield "stale"
    yield BACK


@must_be_iterated
def postgres_restart(resilience: Resilience) -> Iterator[str]:
    """Restart the server, as for a new minor version, a changed setting or a failover.

    In production, all sessions end at once (57P01), and connections are refused for seconds ("down"). Then all clients connect at the
    same time, and each pool is full of dead connections that it takes for live ones ("back").
    """
    resilience.postgres.terminate_backends()
    with resilience.postgres.kill():
        yield "down"
    yield BACK


@must_be_iterated
def silent_nat_drop(resilience: Resilience, target: Literal["postgres", "redis"] = "postgres") -> Iterator[str]:
    """Drop idle connections silently, as a NAT, firewall or load balancer does.

    In production, a client that sends on such a connection waits until the kernel gives up, usually 15 minutes. New connections work,
    so health checks succeed ("dropped"). Without a timeout, each idle connection of a pool costs one request that hangs.
    """
    with getattr(resilience, target).half_open():
        yield "dropped"
    yield BACK


@must_be_iterated
def pool_leak(resilience: Resilience, left: Sequence[int] = (6, 3, 0)) -> Iterator[str]:
    """Take connections and never return them, as a leaking pool does.

    In production, this takes hours. First, new instances can't start. Then pools can't grow ("6 left", "3 left"; Postgres reserves the
    last 3 for superusers). Then no new connection succeeds (53300, "0 left"). Restarting the affected clients makes it worse.

    Args:
        resilience: the test's fixture.
        left: the number of connections left in each phase.
    """
    with ExitStack() as taken:  # all are held to the end, so that each has its part in the last refusal
        for number in left:
            taken.enter_context(resilience.postgres.take_connections(number))
            yield f"{number} left"
    yield BACK


@must_be_iterated
def oom_kill(resilience: Resilience, headroom_mb: float = 4.0) -> Iterator[str]:
    """Let the service run short of memory, and then kill it as the kernel would.

    In production, the service becomes slow and collects garbage all the time ("short"). Then the kernel kills it between two
    instructions: nothing is flushed and no client is notified ("killed"). Then it starts with cold caches while requests have queued up
    ("back").

    Args:
        resilience: the test's fixture.
        headroom_mb: MiB that the service may still allocate in the phase "short".
    """
    with resilience.service.memory_pressure(headroom_mb):
        yield "short"
    with resilience.service.kill():
        yield "killed"
    yield BACK
