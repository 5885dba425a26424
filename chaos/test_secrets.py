"""No failure reveals a secret in the log, in a response, or in an error at the start."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import httpx

import healthy
from instances import Instance, another_instance, start_process
from pytest_resilience import Resilience, eventually
from workload import FELL_BACK, eventually_or_fail, redis_commands, wait_until_unready

POSTGRES, REDIS, UPSTASH, CLEANUP = "pg-s3cret%21", "redis-s3cret", "upstash-s3cret", "cleanup-s3cret"
SECRETS = (POSTGRES, "pg-s3cret!", REDIS, UPSTASH, CLEANUP)


def with_password(url: str, password: str) -> str:
    """Return a URL with another password."""
    parts = urlsplit(url)
    user = parts.username or ""
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{parts.hostname}:{parts.port}"))


@contextmanager
def another_redis_password(resilience: Resilience) -> Iterator[None]:
    """Give Redis another password than the service has. Without a password, some versions of Redis accept any."""
    before = urlsplit(resilience.redis.direct_url).password or ""
    with redis_commands(resilience) as command:
        command("CONFIG", "SET", "requirepass", "another-password")
        try:
            yield
        finally:
            command("CONFIG", "SET", "requirepass", before)


def assert_no_secret(text: str, where: str) -> None:
    """Assert that a text contains none of the secrets."""
    found = [secret for secret in SECRETS if secret in text]
    assert not found, f"{where} reveals a secret ({', '.join(found)}): {text[-2000:]}"


def responses(instance: Instance) -> list[httpx.Response]:
    """Send a GET and a POST to every route, and to one that does not exist."""
    paths = ("/health", "/livez", "/readyz", "/api/campaigns/1", "/api/db-cleanup?verbose", "/nowhere", "/metrics")
    bearer = {"Authorization": f"Bearer {CLEANUP}"}
    gets = [instance.client.get(path, headers=bearer) for path in paths]
    return gets + [instance.client.post(path, headers=bearer, json={"name": "n", "message": "m"}) for path in paths]


def test_no_secret_appears_in_logs_responses_or_the_process_list(resilience: Resilience) -> None:
    settings = {
        "DATABASE_URL": with_password(resilience.postgres.url, POSTGRES),
        "REDIS_URL": with_password(resilience.redis.url, REDIS),
        "CLEANUP_TOKEN": CLEANUP,
    }
    with (
        another_redis_password(resilience),
        another_instance(resilience, ready=False, **settings) as console,
        another_instance(resilience, ready=False, LOG_FORMAT="json", **settings) as json,
    ):
        instances = {"console": console, "json": json}
        replies = [reply for each in instances.values() for reply in responses(each)]
        with resilience.postgres.refuse():
            for each in instances.values():
                wait_until_unready(each.client, within=3.0)
                replies += responses(each)
        for reply in replies:
            request = reply.request
            assert_no_secret(f"{reply.headers} {reply.text}", f"the response to {request.method} {request.url.path}")
        for log_format, each in instances.items():
            eventually_or_fail(
                lambda each=each: FELL_BACK in each.log,
                within=5.0,
                message=f"Redis refuses the password, and the log ({log_format}) does not report Redis as down",
            )
            assert_no_secret(each.log, f"the log ({log_format})")
            assert_no_secret(Path(f"/proc/{each.process.pid}/cmdline").read_text(), "the process list")


def test_an_invalid_setting_ends_the_start_with_one_line_that_names_it(resilience: Resilience) -> None:
    valid = healthy.settings(resilience.postgres.url, resilience.redis.url)
    invalid = {
        "DATABASE_URL": f"mysql://user:{POSTGRES}@localhost/shop",
        "REDIS_URL": f"memcached://:{REDIS}@localhost",
        "UPSTASH_REDIS_REST_TOKEN": UPSTASH,  # without its URL
        "DB_POOL_MAX": "many",
    }
    with tempfile.TemporaryDirectory() as directory:
        logs = {name: Path(directory, name) for name in invalid}
        processes = {name: start_process(valid | {name: value}, logs[name]) for name, value in invalid.items()}
        try:
            codes = {name: process.wait(10.0) for name, process in processes.items()}
        finally:
            for process in processes.values():
                process.kill()
        texts = {name: log.read_text() for name, log in logs.items()}
    for name, text in texts.items():
        assert codes[name] != 0, f"the service starts although {name} is invalid"
        assert_no_secret(text, "the error at the start")
        expected = "UPSTASH_REDIS_REST_URL" if name.startswith("UPSTASH") else name
        assert expected in text, f"the error does not name {expected}: {text}"
        assert text.count("\n") == 1, f"an invalid setting is reported in one line, not: {text}"


def test_upstash_has_priority_and_is_reached_only_over_tls(resilience: Resilience) -> None:
    """The token must not be sent in plain text, and no other Redis may replace Upstash."""
    with socket.create_server(("127.0.0.1", 0)) as upstash:
        upstash.settimeout(5.0)
        host, port = upstash.getsockname()
        settings = {
            "UPSTASH_REDIS_REST_URL": f"https://{host}",
            "UPSTASH_REDIS_REST_TOKEN": UPSTASH,
            "UPSTASH_REDIS_PORT": str(port),
        }
        with another_instance(resilience, **settings) as instance:
            connection, _ = upstash.accept()
            with connection:
                connection.settimeout(5.0)
                first = connection.recv(512)
            assert first[:2] == b"\x16\x03", f"Upstash must be reached over TLS, and received {first[:40]!r}"
            path = instance.client.post("/api/campaigns", json={"name": "n", "message": "m"}).headers["Location"]
            eventually(lambda: "falling back to in-memory cache" in instance.log, within=2.0)
            source = instance.client.get(path).headers["X-Cache-Source"]
            assert source == "memory", f"Upstash is down, and {source} serves in its place: two sources of truth"
            assert_no_secret(instance.log, "the log")
