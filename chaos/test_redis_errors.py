"""A Redis that replies with errors (read-only, full, loading, busy, locked) is not healthy, and the service treats it as down."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from urllib.parse import urlsplit

import pytest

import healthy
from pytest_resilience import Resilience
from workload import (
    assert_one_log_line_per_change,
    concurrently,
    create,
    eventually_or_fail,
    redis_commands,
    redis_state,
    served_by,
    wait_until_redis_serves,
)


@contextmanager
def password_changed(resilience: Resilience) -> Iterator[None]:
    """Change the password of Redis and close existing connections, and restore the password afterwards."""
    before = urlsplit(resilience.redis.direct_url).password or ""
    with redis_commands(resilience) as command:
        command("CONFIG", "SET", "requirepass", "changed")
        command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        try:
            yield
        finally:
            command("CONFIG", "SET", "requirepass", before)


ERRORS: dict[str, Callable[[Resilience], AbstractContextManager[object]]] = {
    "READONLY": lambda r: r.redis.readonly(),
    "MASTERDOWN": lambda r: r.redis.readonly(stale=False),
    "OOM": lambda r: r.redis.oom(),
    "LOADING": lambda r: r.redis.loading(),
    "BUSY": lambda r: r.redis.busy_script(),
    "NOAUTH": password_changed,
}


@pytest.mark.parametrize("error", ERRORS)
def test_a_redis_that_replies_with_errors_is_treated_as_down(resilience: Resilience, error: str) -> None:
    read_only, changed, deleted = (f"/api/campaigns/{create(resilience)['id']}" for _ in range(3))
    for path in (read_only, changed, deleted):
        wait_until_redis_serves(resilience, path)

    with ERRORS[error](resilience):  # without writes, because reads alone may succeed
        message = f"Redis replies {error} to every write, and the service treats it as healthy"
        within = healthy.REDIS_BACK_WITHIN
        eventually_or_fail(lambda: redis_state(resilience.service) == "down", within=within, message=message)
        source = served_by(resilience, read_only)
        assert source == "memory", f"Redis replies {error}, and a read comes from {source}, not memory"
    wait_until_redis_serves(resilience, read_only)

    with ERRORS[error](resilience):  # with writes at once, before the service has noticed the error
        reply = resilience.service.put(changed, json={"message": "the new text"})
        assert reply.status_code == 200, (
            f"a write fails because Redis replies {error}: {reply.status_code} {reply.text}"
        )
        assert resilience.service.delete(deleted).status_code == 204
        for read in concurrently([lambda: resilience.service.get(changed)] * 10):
            assert read.reply is not None, f"a read got no reply: {read.error!r}"
            assert read.status == 200, f"a read fails because Redis replies {error}: {read.status}"
            text = read.reply.json()["message"]
            assert text == "the new text", f"while Redis replies {error}, a read gets the old value {text!r}"
        status = resilience.service.get(deleted).status_code
        assert status == 404, f"while Redis replies {error}, a read of a deleted campaign gets {status}, not 404"

    wait_until_redis_serves(resilience, changed)
    text = resilience.service.get(changed).json()["message"]
    assert text == "the new text", f"after {error}, a read gets the old value {text!r} out of Redis"
    status = resilience.service.get(deleted).status_code
    assert status == 404, f"after {error}, a deleted campaign is back: a read gets {status}, not 404"
    assert_one_log_line_per_change(resilience, outages=2)
