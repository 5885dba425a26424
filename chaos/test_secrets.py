"""Whatever fails, no secret is told: not in the log, not in an answer, not in an error at the start."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

import healthy
from instances import another, start
from pytest_resilience import Resilience, eventually

POSTGRES, REDIS, UPSTASH, CLEANUP = "pg-s3cret%21", "redis-s3cret", "upstash-s3cret", "cleanup-s3cret"
SECRETS = (POSTGRES, "pg-s3cret!", REDIS, UPSTASH, CLEANUP)


def with_password(url: str, password: str) -> str:
    parts = urlsplit(url)
    user = parts.username or ""
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{parts.hostname}:{parts.port}"))


def nothing_told(text: str, where: str) -> None:
    told = [secret for secret in SECRETS if secret in text]
    assert not told, f"{where} tells a secret ({', '.join(told)}): {text[-2000:]}"


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_no_secret_in_logs_answers_and_the_list_of_processes(resilience: Resilience, log_format: str) -> None:
    settings = {
        "DATABASE_URL": with_password(resilience.postgres.url, POSTGRES),
        "REDIS_URL": with_password(resilience.redis.url, REDIS),  # which Redis refuses: it knows no passwords
        "CLEANUP_TOKEN": CLEANUP,
        "LOG_FORMAT": log_format,
    }
    with another(resilience, ready=False, **settings) as instance:
        paths = ("/health", "/livez", "/readyz", "/api/campaigns/1", "/api/db-cleanup?verbose", "/nowhere", "/metrics")
        answers = []
        for strike in (None, resilience.postgres.refuse):
            if strike is not None:
                strike()
                eventually(lambda: instance.client.get("/readyz").status_code == 503, within=3.0)
            for path in paths:
                bearer = {"Authorization": f"Bearer {CLEANUP}"}
                answers.append(instance.client.get(path, headers=bearer))
                answers.append(instance.client.post(path, headers=bearer, json={"name": "n", "message": "m"}))
            if strike is not None:
                for each in resilience.strikes:
                    each.heal()
        for answer in answers:
            nothing_told(
                f"{answer.headers} {answer.text}", f"the answer to {answer.request.method} {answer.request.url.path}"
            )
        eventually(lambda: "falling back to in-memory cache" in instance.log, within=2.0)
        nothing_told(instance.log, "the log")
        nothing_told(Path(f"/proc/{instance.process.pid}/cmdline").read_text(), "the list of processes")


def test_a_wrong_setting_ends_the_start_in_one_line_that_names_it(resilience: Resilience) -> None:
    good = healthy.settings(resilience.postgres.url, resilience.redis.url)
    wrong = {
        "DATABASE_URL": f"mysql://user:{POSTGRES}@localhost/shop",
        "REDIS_URL": f"memcached://:{REDIS}@localhost",
        "UPSTASH_REDIS_REST_TOKEN": UPSTASH,  # without its URL
        "DB_POOL_MAX": "many",
    }
    for name, value in wrong.items():
        with tempfile.TemporaryDirectory() as scratch:
            process = start(good | {name: value}, Path(scratch, "log"))
            try:
                code = process.wait(10.0)
            finally:
                process.kill()
            said = Path(scratch, "log").read_text()
        assert code not in (0, None), f"it starts although {name} is wrong"
        nothing_told(said, "the error at the start")
        expected = "UPSTASH_REDIS_REST_URL" if name.startswith("UPSTASH") else name
        assert expected in said, f"the error does not name {expected}: {said}"
        assert said.count("\n") == 1, f"a wrong setting is told in one line: {said}"


def test_upstash_comes_first_and_is_asked_by_tls(resilience: Resilience) -> None:
    """The token must not travel in clear, and another Redis must not be used in its place."""
    with socket.create_server(("127.0.0.1", 0)) as upstash:
        upstash.settimeout(5.0)
        host, port = upstash.getsockname()
        settings = {
            "UPSTASH_REDIS_REST_URL": f"https://{host}",
            "UPSTASH_REDIS_REST_TOKEN": UPSTASH,
            "UPSTASH_REDIS_PORT": str(port),
        }
        with another(resilience, **settings) as instance:
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
