"""Settings from the environment, with their checks and without secrets in messages."""

import pytest

from service.errors import SettingsError
from service.settings import ServiceSettings

URL = {"DATABASE_URL": "postgresql://app:p%40ss@db.internal/shop"}


def test_the_defaults_are_the_documented_ones():
    settings = ServiceSettings.from_environment(URL)
    assert (settings.host, settings.port) == ("0.0.0.0", 8080)
    assert (settings.db_pool_max, settings.db_pool_idle_timeout, settings.db_pool_acquire_timeout) == (100, 30, 3)
    assert (settings.db_pool_check_interval, settings.db_pool_alert_percent, settings.db_command_timeout) == (30, 90, 5)
    assert (settings.memory_limit_mb, settings.memory_check_interval, settings.memory_stats_interval) == (4096, 1, 60)
    assert (settings.gc_interval, settings.cache_ttl, settings.cache_stale_ttl) == (30, 60, 600)
    assert (settings.cache_max_entries, settings.cache_max_mb, settings.redis_budget) == (10_000, 64, 0.25)
    assert (settings.cleanup_interval, settings.cleanup_min_interval, settings.shutdown_grace) == (21_600, 10, 10)
    assert (settings.gateway_timeout, settings.send_batch, settings.worker_connections) == (5, 100, 2)
    assert settings.gateway_url is None
    assert (settings.journal_dir, settings.journal_max_jobs, settings.job_attempts) == (".service-journal", 10_000, 5)
    assert (settings.redis_url, settings.cleanup_token, settings.log_format) == (None, None, "console")


def test_values_are_read_and_empty_values_count_as_unset():
    settings = ServiceSettings.from_environment(
        {**URL, "PORT": " 0 ", "REDIS_BUDGET": "0.5", "REDIS_URL": "", "HOST": "::1"}
    )
    assert (settings.port, settings.redis_budget, settings.redis_url, settings.host) == (0, 0.5, None, "::1")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", None),
        ("DATABASE_URL", "mysql://app:hunter2@db/shop"),
        ("DATABASE_URL", "postgresql://app:hunter2@db:port/shop"),
        ("REDIS_URL", "localhost:6379"),
        ("REDIS_URL", "redis://:hunter2@[::1/0"),
        ("PORT", "http"),
        ("PORT", "65536"),
        ("PORT", "80.5"),
        ("DB_POOL_MAX", "0"),
        ("DB_POOL_ACQUIRE_TIMEOUT", "-1"),
        ("DB_COMMAND_TIMEOUT", "nan"),
        ("REDIS_BUDGET", "inf"),
        ("MEMORY_LIMIT_MB", "4GB"),
        ("LOG_FORMAT", "xml"),
        ("UPSTASH_REDIS_CA_FILE", "/nowhere/ca.pem"),
        ("DB_POOL_ALERT_PERCENT", "101"),
        ("DB_POOL_MAX", "1_0"),
        ("DB_POOL_MAX", "٣"),
        ("HOST", ".."),
        ("HOST", "a b"),
        ("HOST", "x" * 64),
        ("HOST", "\udcff"),
        ("CLEANUP_TOKEN", "hunter2-ö"),
        ("CLEANUP_TOKEN", "hunter2 twice"),
        ("CLEANUP_TOKEN", "hunter2\udcff"),
        ("UPSTASH_REDIS_CA_FILE", "/etc"),
        ("UPSTASH_REDIS_CA_FILE", "/etc/passwd"),
    ],
)
def test_an_invalid_setting_is_named_without_its_value(name, value):
    environment = {**URL, name: value} if value is not None else {}
    with pytest.raises(SettingsError) as caught:
        ServiceSettings.from_environment(environment)
    assert caught.value.name == name
    assert str(caught.value).startswith(f"{name}: expected ")
    assert "\n" not in str(caught.value)
    assert value is None or value.isdigit() or value not in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "url", "problem"),
    [
        ("DATABASE_URL", "postgresql://u:hunter2@h/d?sslmode=bogus", "sslmode"),
        ("DATABASE_URL", "postgresql://u:hunter2@h/d?port=abc", "port"),
        ("DATABASE_URL", "postgresql://u:hunter2@h/d?port=65536", "port"),
        ("DATABASE_URL", "postgresql://u:hunter2@h:0/d", "port"),
        ("DATABASE_URL", "postgresql://u:hunter2@a b/d", "space"),
        ("DATABASE_URL", "postgresql://u:hunter2%ff@h/d", "UTF-8"),
        ("DATABASE_URL", "postgresql://u:hunter2%@h/d", "%25"),
        ("DATABASE_URL", "postgresql://u:hunter2%00@h/d", "NUL"),
        ("DATABASE_URL", "postgresql://u:hunter2@2@h/d", "%40"),
        ("DATABASE_URL", "postgresql://u:1#hunter2@h/d", "#"),
        ("DATABASE_URL", "postgresql://u:hunter2@h..x/d", "host"),
        ("DATABASE_URL", "postgresql://u:hunter2@h,/d", "host"),
        ("DATABASE_URL", "postgresql://u:hunter2@h/d?hunter2", "name=value"),
        ("DATABASE_URL", "postgresql://u:hunter2@h/d?sslmode=disable&sslmode=prefer", "twice"),
        ("DATABASE_URL", "postgresql://u:hunter2@h/d?channel_binding=require", "channel_binding"),
        ("DATABASE_URL", "postgresql://u:hunter2@h/d?target_session_attrs=bogus", "target_session_attrs"),
        ("DATABASE_URL", "postgresql://u:hunter2@h/d?sslmode=verify-full&sslrootcert=/nowhere", "file"),
        ("DATABASE_URL", "postgresql://u:hunter2@h/d?sslmode=require&ssl_min_protocol_version=TLSv9", "asyncpg"),
        ("REDIS_URL", "redis://:hunter2@h..x/0", "host"),
        ("REDIS_URL", "redis://:hunter2@a b/0", "space"),
        ("REDIS_URL", "redis://:hunter2@h:0", "port"),
        ("REDIS_URL", "redis://:hunter2@h/one", "database"),
        ("REDIS_URL", "redis://:hunter2%ff@h/0", "UTF-8"),
        ("REDIS_URL", "redis://:hunter2@h/0?db=one", "parameters"),
        ("REDIS_URL", "redis://:hunter2@h/0?bogus=hunter2", "parameters"),
        ("REDIS_URL", "rediss://:hunter2@h/0?ssl_cert_reqs=bogus", "parameters"),
        ("REDIS_URL", "rediss://:hunter2@h/0?ssl_ca_certs=/nowhere", "parameters"),
        ("UPSTASH_REDIS_REST_URL", "https://hunter2..io", "host"),
        ("UPSTASH_REDIS_REST_URL", "https://hunter2.io:0", "port"),
        ("GATEWAY_URL", "ftp://u:hunter2@gateway", "https://gateway"),
        ("GATEWAY_URL", "https://u:hunter2@gateway..x", "host"),
        ("GATEWAY_URL", "https://gateway/hunter2/é", "ASCII"),
    ],
)
def test_a_url_that_can_never_work_is_refused_with_the_reason(name, url, problem):
    with pytest.raises(SettingsError) as caught:
        ServiceSettings.from_environment({**URL, "UPSTASH_REDIS_REST_TOKEN": "t", name: url})
    assert caught.value.name == name
    assert problem in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("DATABASE_URL", "postgresql:///shop"),
        ("DATABASE_URL", "postgresql://u:p%40ss@[::1]:5432/shop?sslmode=prefer&application_name=x"),
        ("DATABASE_URL", "postgresql://u:p@db-1:5432,db_2.internal:5433/shop?target_session_attrs=read-write"),
        ("DATABASE_URL", "postgresql://%2Frun%2Fpostgresql/shop"),
        ("DATABASE_URL", "postgresql:///shop?host=/run/postgresql&port=5433"),
        ("REDIS_URL", "redis://u:p@[::1]:6379/1"),
        ("REDIS_URL", "rediss://:p@cache.internal"),
        ("REDIS_URL", "redis://cache?db=2"),
    ],
)
def test_a_url_that_can_work_is_accepted(name, url):
    assert getattr(ServiceSettings.from_environment({**URL, name: url}), name.lower()) == url


@pytest.mark.parametrize("given", ["UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN"])
def test_upstash_needs_both_url_and_token(given):
    missing = {"UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN"} - {given}
    with pytest.raises(SettingsError) as caught:
        ServiceSettings.from_environment({**URL, given: "https://x.upstash.io"})
    assert {caught.value.name} == missing


def test_no_secret_is_in_the_repr():
    secrets = {
        "REDIS_URL": "redis://:red1s@r/0",
        "UPSTASH_REDIS_REST_URL": "https://u:upsta@x.upstash.io",
        "UPSTASH_REDIS_REST_TOKEN": "tok3n-of-upstash",
        "CLEANUP_TOKEN": "cl3anup",
        "GATEWAY_URL": "https://u:g4teway@gateway",
    }
    settings = ServiceSettings.from_environment({**URL, **secrets})
    for secret in ("p%40ss", "red1s", "upsta@", "tok3n", "cl3anup", "g4teway"):
        assert secret not in repr(settings)
    assert {"p%40ss", "p@ss", "red1s", "upsta", "tok3n-of-upstash", "cl3anup", "g4teway"} <= set(settings.secrets())
