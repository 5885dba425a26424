"""Redis answers, but with an error: read-only, full, loading, busy, locked. It is not healthy, and the service must not believe so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from urllib.parse import urlsplit

import pytest

import healthy
from pytest_resilience import Resilience, eventually
from workload import assert_one_log_line_per_change, concurrently, create, eventually_or_fail, redis_commands, served_by


@contextmanager
def password_changed(resilience: Resilience) -> Iterator[None]:
    """Somebody has changed the password, and connections that exist are closed."""
    before = urlsplit(resilience.redis.direct_url).password or ""
    with redis_commands(resilience) as ask:
        ask("CONFIG", "SET", "requirepass", "changed")
        ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        try:
            yield
        finally:
            ask("CONFIG", "SET", "requirepass", before)


TROUBLES: dict[str, Callable[[Resilience], AbstractContextManager[object]]] = {
    "READONLY": lambda r: r.redis.readonly(),
    "MASTERDOWN": lambda r: r.redis.readonly(stale=False),
    "OOM": lambda r: r.redis.oom(),
    "LOADING": lambda r: r.redis.loading(),
    "BUSY": lambda r: r.redis.busy_script(),
    "NOAUTH": password_changed,
}


def redis_is(resilience: Resilience) -> str:
    """What the service thinks of Redis."""
    state: str = resilience.service.get("/readyz").json()["checks"]["redis"]
    return state


@pytest.mark.parametrize("kind", TROUBLES)
def test_a_redis_that_replies_with_errors_is_treated_as_down(resilience: Resilience, kind: str) -> None:
    kept, changed, deleted = (f"/api/campaigns/{create(resilience)['id']}" for _ in range(3))
    for path in (kept, changed, deleted):
        eventually(lambda path=path: served_by(resilience, path) == "redis", within=healthy.REDIS_BACK_WITHIN)

    with TROUBLES[kind](resilience):  # and nobody writes: reads alone may look well
        message = f"Redis answers {kind} to every write, and the service takes it for healthy"
        within = healthy.REDIS_BACK_WITHIN
        eventually_or_fail(lambda: redis_is(resilience) == "down", within=within, message=message)
        served = served_by(resilience, kept)
        assert served == "memory", f"Redis answers {kind}, and {served} serves"
    eventually(lambda: served_by(resilience, kept) == "redis", within=healthy.REDIS_BACK_WITHIN)

    with TROUBLES[kind](resilience):  # and somebody writes at once, before anybody knows
        reply = resilience.service.put(changed, json={"message": "the new text"})
        assert reply.status_code == 200, f"a write fails because Redis says {kind}: {reply.status_code} {reply.text}"
        assert resilience.service.delete(deleted).status_code == 204
        for read in concurrently([lambda: resilience.service.get(changed)] * 10):
            assert read.reply is not None, f"a read got no answer: {read.error!r}"
            assert read.status == 200, f"a read fails because Redis says {kind}: {read.status}"
            assert read.reply.json()["message"] == "the new text", f"an old value, because Redis said {kind}"
        assert resilience.service.get(deleted).status_code == 404, f"a deleted campaign, because Redis said {kind}"

    eventually(lambda: served_by(resilience, changed) == "redis", within=healthy.REDIS_BACK_WITHIN)
    assert resilience.service.get(changed).json()["message"] == "the new text", f"an old value after {kind} was over"
    assert resilience.service.get(deleted).status_code == 404, f"a deleted campaign came back after {kind} was over"
    assert_one_log_line_per_change(resilience, outages=2)
