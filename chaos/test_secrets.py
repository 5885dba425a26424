"""Whatever fails, no secret is told: not in the log, not in an answer, not in an error at the start."""

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
from workload import FELL_BACK, eventually_or_fail, redis_commands

POSTGRES, REDIS, UPSTASH, CLEANUP = "pg-s3cret%21", "redis-s3cret", "upstash-s3cret", "cleanup-s3cret"
SECRETS = (POSTGRES, "pg-s3cret!", REDIS, UPSTASH, CLEANUP)


def with_password(url: str, password: str) -> str:
    parts = urlsplit(url)
    user = parts.username or ""
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{parts.hostname}:{parts.port}"))


@contextmanager
def another_password(resilience: Resilience) -> Iterator[None]:
    """Redis has another password than the service. Without any, whether it refuses one depends on the version of its protocol."""
    before = urlsplit(resilience.redis.direct_url).password or ""
    with redis_commands(resilience) as ask:
        ask("CONFIG", "SET", "requirepass", "another-password")
        try:
            yield
        finally:
            ask("CONFIG", "SET", "requirepass", before)


def nothing_told(text: str, where: str) -> None:
    told = [secret for secret in SECRETS if secret in text]
    assert not told, f"{where} tells a secret ({', '.join(told)}): {text[-2000:]}"


def test_no_secret_appears_in_logs_responses_or_the_process_list(resilience: Resilience) -> None:
    settings = {
        "DATABASE_URL": with_password(resilience.postgres.url, POSTGRES),
        "REDIS_URL": with_password(resilience.redis.url, REDIS),
        "CLEANUP_TOKEN": CLEANUP,
    }
    with (
        another_password(resilience),
        another_instance(resilience, ready=False, **settings) as console,
        another_instance(resilience, ready=False, LOG_FORMAT="json", **settings) as json,
    ):
        instances = {"console": console, "json": json}
        answers = [answer for each in instances.values() for answer in asked(each)]
        with resilience.postgres.refuse():
            for each in instances.values():
                eventually(lambda each=each: each.client.get("/readyz").status_code == 503, within=3.0)
                answers += asked(each)
        for answer in answers:
            request = answer.request
            nothing_told(f"{answer.headers} {answer.text}", f"the answer to {request.method} {request.url.path}")
        for log_format, each in instances.items():
            eventually_or_fail(
                lambda each=each: FELL_BACK in each.log,
                within=5.0,
                message=f"Redis refuses the password, and the log ({log_format}) does not say that Redis is away",
            )
            nothing_told(each.log, f"the log ({log_format})")
            nothing_told(Path(f"/proc/{each.process.pid}/cmdline").read_text(), "the list of processes")


def asked(instance: Instance) -> list[httpx.Response]:
    """What it answers to whatever one may ask."""
    paths = ("/health", "/livez", "/readyz", "/api/campaigns/1", "/api/db-cleanup?verbose", "/nowhere", "/metrics")
    bearer = {"Authorization": f"Bearer {CLEANUP}"}
    gets = [instance.client.get(path, headers=bearer) for path in paths]
    return gets + [instance.client.post(path, headers=bearer, json={"name": "n", "message": "m"}) for path in paths]


def test_an_invalid_setting_ends_the_start_with_one_line_that_names_it(resilience: Resilience) -> None:
    good = healthy.settings(resilience.postgres.url, resilience.redis.url)
    wrong = {
        "DATABASE_URL": f"mysql://user:{POSTGRES}@localhost/shop",
        "REDIS_URL": f"memcached://:{REDIS}@localhost",
        "UPSTASH_REDIS_REST_TOKEN": UPSTASH,  # without its URL
        "DB_POOL_MAX": "many",
    }
    with tempfile.TemporaryDirectory() as scratch:
        logs = {name: Path(scratch, name) for name in wrong}
        processes = {name: start_process(good | {name: value}, logs[name]) for name, value in wrong.items()}
        try:
            codes = {name: process.wait(10.0) for name, process in processes.items()}
        finally:
            for process in processes.values():
                process.kill()
        said = {name: log.read_text() for name, log in logs.items()}
    for name, text in said.items():
        assert codes[name] != 0, f"it starts although {name} is wrong"
        nothing_told(text, "the error at the start")
        expected = "UPSTASH_REDIS_REST_URL" if name.startswith("UPSTASH") else name
        assert expected in text, f"the error does not name {expected}: {text}"
        assert text.count("\n") == 1, f"a wrong setting is told in one line: {text}"


def test_upstash_has_priority_and_is_reached_only_over_tls(resilience: Resilience) -> None:
    """The token must not travel in clear, and another Redis must not be used in its place."""
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
            assert first[:2] == b"\x16\x03", f"Upstash is to be asked by TLS, and got {first[:40]!r}"
            path = instance.client.post("/api/campaigns", json={"name": "n", "message": "m"}).headers["Location"]
            eventually(lambda: "falling back to in-memory cache" in instance.log, within=2.0)
            source = instance.client.get(path).headers["X-Cache-Source"]
            assert source == "memory", f"Upstash is away, and {source} serves in its place: two truths"
            nothing_told(instance.log, "the log")
