"""The five things that a client can ask for, so that a promise is tried with each of them and not with the first that comes to mind."""

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
        status: of its answer when nothing is wrong.
        send: sends it to a client for one campaign.
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
    """Insert campaigns around the service, so that no cache has them. Return their ids."""
    query = "insert into campaigns (name, message) select $1, $2 from generate_series(1, $3) returning id"
    return [row["id"] for row in sql(resilience, query, NAME, message, count)]


def send_every_verb(client: Any, ids: Iterable[int], *, names: Iterable[str] = VERBS) -> list[tuple[str, TimedReply]]:
    """Send one request of each verb for each of the given campaigns, all at once. Return what came of each, with its verb."""
    asked = [(name, partial(VERBS[name].send, client, i)) for name, i in zip(names, ids, strict=True)]
    return list(zip((name for name, _ in asked), concurrently([ask for _, ask in asked]), strict=True))


def assert_all_succeed(answers: list[tuple[str, TimedReply]], *, during: str, within: float) -> None:
    """Assert that each answer is the one of fine weather, and that none came later than `within` seconds."""
    for verb, answer in answers:
        wanted = VERBS[verb].status
        assert answer.status == wanted, f"{during}: {verb} is answered {answer.status}, not {wanted}: {answer.error!r}"
        assert answer.seconds < within, f"{during}: {verb} takes {answer.seconds:.2f} s"


def assert_all_unavailable(answers: list[tuple[str, TimedReply]], *, during: str, within: float) -> None:
    """Assert that each answer is a 503 with Retry-After, and that none came later than `within` seconds."""
    for verb, answer in answers:
        assert answer.status == 503, f"{during}: {verb} is answered {answer.status}, not 503: {answer.error!r}"
        assert_unavailable([answer])
        assert answer.seconds < within, f"{during}: {verb} hears of it only after {answer.seconds:.2f} s"
