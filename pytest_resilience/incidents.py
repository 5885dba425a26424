"""Incidents that have names, as plain functions over the vocabulary of faults.

Each is a generator of phases: the body of your loop runs while a phase lasts, and the next turn heals it. The last phase is always
"back", with everything healed. Leave the loop early and all is healed too.

    for phase in redis_failover(resilience):
        assert resilience.service.get("/api/campaigns/1").status_code == 200, phase
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Literal

from .resilience import Resilience

BACK = "back"


def redis_failover(resilience: Resilience) -> Iterator[str]:
    """The primary dies and another takes over.

    In production: connections break, the name leads nowhere for seconds ("gone"); then clients reach a server that is still a replica,
    by a name that was cached or a promotion that is not through: it answers reads with old data and writes with READONLY ("stale").
    A client that takes READONLY for an answer like any other goes on writing to the wrong server for as long as its pool lives.
    """
    with resilience.redis.refuse():
        yield "gone"
    with resilience.redis.readonly():
        yield "stale"
    yield BACK


def postgres_restart(resilience: Resilience) -> Iterator[str]:
    """The server is restarted: a new minor version, a changed setting, a failover.

    In production: all sessions end at once (57P01), connections are refused for seconds ("down"); then everybody connects at the same
    time, and each pool is full of connections that are dead and don't know it ("back").
    """
    resilience.postgres.terminate_backends()
    with resilience.postgres.kill():
        yield "down"
    yield BACK


def silent_nat_drop(resilience: Resilience, target: Literal["postgres", "redis"] = "postgres") -> Iterator[str]:
    """A NAT, firewall or load balancer forgets connections that were idle for long, and tells nobody.

    In production: whoever sends on one of them waits until the kernel gives up, 15 minutes as a rule; new connections work, so that
    health checks are green ("dropped"). Without a timeout, each idle connection of a pool costs one request that hangs.
    """
    with getattr(resilience, target).half_open():
        yield "dropped"
    yield BACK


def pool_leak(resilience: Resilience, left: Sequence[int] = (6, 3, 0)) -> Iterator[str]:
    """Somebody takes connections and doesn't give them back.

    In production: it takes hours; first new instances can't start, then pools can't grow ("6 left", "3 left"; Postgres keeps the last 3 for
    superusers), then nobody gets a connection who hasn't one (53300, "0 left"). Restarting the victims makes it worse.

    Args:
        resilience: whom it happens to.
        left: how many connections of the server are left in each phase.
    """
    with ExitStack() as taken:  # all are held to the end, so that a refusal at last is the work of each
        for number in left:
            taken.enter_context(resilience.postgres.take_connections(number))
            yield f"{number} left"
    yield BACK


def oom_kill(resilience: Resilience, headroom_mb: float = 4.0) -> Iterator[str]:
    """The service runs out of memory and the kernel kills it.

    In production: it gets slow and collects garbage all the time ("short"), then it is gone between two instructions: nothing is flushed,
    nobody is told ("killed"); then it starts with cold caches while its clients have queued up ("back").

    Args:
        resilience: whom it happens to.
        headroom_mb: MiB that it may still grow by while it is short.
    """
    with resilience.service.memory_pressure(headroom_mb):
        yield "short"
    with resilience.service.kill():
        yield "killed"
    yield BACK
