"""The promises of the links when a single statement fails, or when its answer is lost."""

from __future__ import annotations

import httpx

from pytest_resilience import Resilience

KEY = {"Idempotency-Key": "a"}


def create(resilience: Resilience) -> httpx.Response:
    """Create two links, always under the same key."""
    return resilience.service.post("/links", content="https://example.com\nhttps://example.org", headers=KEY)


def created(resilience: Resilience) -> list[str]:
    """Create the links, and return their codes after a check that they exist and are counted once."""
    reply = create(resilience)
    assert reply.status_code == 201, reply.text
    codes = reply.json()["codes"]
    for code in codes:
        assert resilience.service.get(f"/links/{code}").status_code == 200, "an acknowledged link does not exist"
    assert resilience.service.get("/totals").json() == {"links": 2}
    return codes


def test_a_request_that_is_repeated_gets_the_first_links(resilience: Resilience) -> None:
    assert created(resilience) == created(resilience)


def test_a_lost_answer_to_commit_creates_nothing_twice(resilience: Resilience) -> None:
    with resilience.postgres.on("commit").first(1).lose_answer():
        created(resilience)


def test_conflicts_of_transactions_are_tried_again(resilience: Resilience) -> None:
    with (
        resilience.postgres.serialization_failure(matching="totals"),
        resilience.postgres.deadlock(nth=2, matching="totals"),
    ):
        created(resilience)


def test_a_session_that_ends_in_the_middle_creates_nothing_by_half(resilience: Resilience) -> None:
    with resilience.postgres.on("update", matching="totals").first(1).fatal("57P01"):
        created(resilience)


def test_a_refused_request_can_be_repeated(resilience: Resilience) -> None:
    with resilience.postgres.on("insert").hang():
        assert create(resilience).status_code == 503
    created(resilience)  # the insert may have gone on meanwhile


def test_errors_of_redis_are_no_errors_of_a_read(resilience: Resilience) -> None:
    [code, _] = created(resilience)
    for error in "LOADING", "OOM", "READONLY":
        with resilience.redis.on("get").error(error):
            reply = resilience.service.get(f"/links/{code}")
            assert (reply.status_code, reply.headers["x-source"]) == (200, "postgres")
    assert resilience.service.get(f"/links/{code}").headers["x-source"] == "redis"


def test_the_answer_of_another_command_is_never_taken_for_a_link(resilience: Resilience) -> None:
    first, second = created(resilience)
    with resilience.redis.on("get").first(1).delay(0.6):  # longer than the service waits
        resilience.service.get(f"/links/{first}")
        assert resilience.service.get(f"/links/{second}").json() == {"url": "https://example.org"}
    assert resilience.service.get(f"/links/{second}").json() == {"url": "https://example.org"}
