"""The five kinds of request to the campaign API, so that a promise is tested with each of them and not only with one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx

from pytest_resilience import Resilience
from workload import MESSAGE, NAME, TimedReply, assert_unavailable, concurrently, sql


@dataclass(frozen=True)
class Verb:
    """One kind of request.

    Attributes:
        status: the status of its response when nothing is wrong.
        send: sends the request for one campaign through a client.
    """

    status: int
    send: Callable[[Any, int], httpx.Response]


VERBS = {
    "POST": Verb(201, lambda client, _: client.post("/api/campaigns", json={"name": NAME, "message": MESSAGE})),
    "PUT": Verb(200, lambda client, i: client.put(f"/api/campaigns/{i}", json={"message": "changed"})),
    "DELETE": Verb(204, lambda client, i: client.delete(f"/api/campaigns/{i}")),
    "GET one": Verb(200, lambda client, i: client.get(f"/api/campaigns/{i}")),
    "GET list": Verb(200, lambda client, i: client.get(f"/api/campaigns?after={i - 1}&limit=1")),
}
WRITES = ("POST", "PUT", "DELETE")
READS = ("GET one", "GET list")


def uncached_campaigns(resilience: Resilience, count: int, message: str = MESSAGE) -> list[int]:
    """Insert campaigns directly into Postgres, so that no cache has them, and return their ids."""
    query = "insert into campaigns (name, message) select $1, $2 from generate_series(1, $3) returning id"
    return [row["id"] for row in sql(resilience, query, NAME, message, count)]


def send_every_verb(client: Any, ids: Iterable[int], *, names: Iterable[str] = VERBS) -> list[tuple[str, TimedReply]]:
    """Send one request of each verb, all at the same time, and return each outcome with its verb.

    Args:
        client: an `httpx.Client` of an instance, or `resilience.service`.
        ids: the campaign for each verb.
        names: the verbs.
    """
    requests = [(name, partial(VERBS[name].send, client, i)) for name, i in zip(names, ids, strict=True)]
    replies = concurrently([send for _, send in requests])
    return list(zip((name for name, _ in requests), replies, strict=True))


def assert_all_succeed(replies: list[tuple[str, TimedReply]], *, during: str, within: float) -> None:
    """Assert that each request got its normal status within a number of seconds."""
    for verb, reply in replies:
        expected = VERBS[verb].status
        assert reply.status == expected, f"{during}: {verb} gets {reply.status}, not {expected}: {reply.error!r}"
        assert reply.seconds < within, f"{during}: {verb} takes {reply.seconds:.2f} s, more than {within:.2f} s"


def assert_all_unavailable(replies: list[tuple[str, TimedReply]], *, during: str, within: float) -> None:
    """Assert that each request got a 503 with Retry-After within a number of seconds."""
    for verb, reply in replies:
        assert reply.status == 503, f"{during}: {verb} gets {reply.status}, not 503: {reply.error!r}"
        assert_unavailable([reply])
        assert reply.seconds < within, f"{during}: {verb} gets its 503 after {reply.seconds:.2f} s, not {within:.2f} s"
