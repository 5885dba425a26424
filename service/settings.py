"""The settings, read from the environment and checked before anything starts."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import unquote, urlsplit

from . import url_checks
from .errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """The settings. Each field is an environment variable of that name in upper case.

    Durations are in seconds, sizes in MiB.
    """

    database_url: str = field(repr=False)
    host: str = "0.0.0.0"
    port: int = 8080
    header_timeout: float = 10.0
    body_timeout: float = 10.0
    max_connections: int | None = None

    redis_url: str | None = field(default=None, repr=False)
    upstash_redis_rest_url: str | None = field(default=None, repr=False)
    upstash_redis_rest_token: str | None = field(default=None, repr=False)
    upstash_redis_port: int = 6379
    upstash_redis_ca_file: str | None = None
    redis_budget: float = 0.25

    db_pool_max: int = 100
    db_pool_idle_timeout: float = 30.0
    db_pool_acquire_timeout: float = 3.0
    db_pool_check_interval: float = 30.0
    db_pool_alert_percent: float = 90.0
    db_command_timeout: float = 5.0

    gateway_url: str | None = field(default=None, repr=False)
    gateway_timeout: float = 5.0
    send_batch: int = 100
    worker_connections: int = 2

    memory_limit_mb: float = 4096.0
    memory_check_interval: float = 1.0
    memory_stats_interval: float = 60.0
    gc_interval: float = 30.0

    cache_ttl: float = 60.0
    cache_stale_ttl: float = 600.0
    cache_max_entries: int = 10_000
    cache_max_mb: float = 64.0
    cache_max_pending_writes: int = 50_000

    journal_dir: str = ".service-journal"
    journal_max_jobs: int = 10_000
    job_attempts: int = 5

    cleanup_token: str | None = field(default=None, repr=False)
    cleanup_interval: float = 21_600.0
    cleanup_min_interval: float = 10.0
    shutdown_grace: float = 10.0
    log_format: str = "console"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> ServiceSettings:
        """Read and check all settings. An empty variable counts as unset.

        Raises:
            SettingsError: a setting is missing or malformed. The error names it and the expected form.
        """
        values: dict[str, Any] = {}
        for each in fields(cls):
            text = environment.get(each.name.upper(), "").strip()
            if text:
                values[each.name] = _parse(each.name, text)
        if "database_url" not in values:
            raise SettingsError("DATABASE_URL", f"{_POSTGRES_URL}; it is not set")
        for given, missing in (_UPSTASH, _UPSTASH[::-1]):
            if given in values and missing not in values:
                raise SettingsError(missing.upper(), f"a value, because {given.upper()} is set")
        return cls(**values)

    def secrets(self) -> Iterator[str]:
        """Yield every text that must never be printed, as given and percent-decoded."""
        for text in (self.upstash_redis_rest_token, self.cleanup_token):
            if text:
                yield text
        for url in (self.database_url, self.redis_url, self.upstash_redis_rest_url, self.gateway_url):
            password = urlsplit(url).password if url else None
            if password:
                yield from {password, unquote(password)}
            if url and "password=" in url:
                yield url.split("password=", 1)[1].split("&", 1)[0]


_UPSTASH = ("upstash_redis_rest_url", "upstash_redis_rest_token")
_POSTGRES_URL = "a URL such as postgresql://user@host:5432/database"
# name: (schemes, the expected form, a function that returns the problem of a URL)
_URLS: dict[str, tuple[tuple[str, ...], str, Callable[[str], str | None]]] = {
    "database_url": (("postgres", "postgresql"), _POSTGRES_URL, url_checks.postgres_url_problem),
    "redis_url": (("redis", "rediss"), "a URL such as redis://host:6379/0", url_checks.redis_url_problem),
    "upstash_redis_rest_url": (("https",), "a URL such as https://name.upstash.io", url_checks.upstash_url_problem),
    "gateway_url": (("http", "https"), "a URL such as https://gateway.example/send", url_checks.gateway_url_problem),
}
_TOKENS = {"cleanup_token", "upstash_redis_rest_token"}
_TOKEN = re.compile(r"[!-~]+")
# name: (lowest, highest); bounds are inclusive
_NUMBERS: dict[str, tuple[float, float]] = {
    "port": (0, 65_535),
    "header_timeout": (0.1, 3_600),
    "body_timeout": (0.1, 3_600),
    "max_connections": (1, 1_000_000),
    "upstash_redis_port": (1, 65_535),
    "redis_budget": (0.001, 60),
    "db_pool_max": (1, 10_000),
    "db_pool_idle_timeout": (0.1, 86_400),
    "db_pool_acquire_timeout": (0.01, 3_600),
    "db_pool_check_interval": (0.05, 86_400),
    "db_pool_alert_percent": (1, 100),
    "db_command_timeout": (0.1, 3_600),
    "gateway_timeout": (0.05, 3_600),
    "send_batch": (1, 10_000),
    "worker_connections": (1, 10_000),
    "memory_limit_mb": (1, 1 << 30),
    "memory_check_interval": (0.05, 3_600),
    "memory_stats_interval": (0.05, 86_400),
    "gc_interval": (0.05, 86_400),
    "cache_ttl": (0.001, 31_536_000),
    "cache_stale_ttl": (0.001, 31_536_000),
    "cache_max_entries": (1, 1 << 40),
    "cache_max_mb": (0.001, 1 << 30),
    "cache_max_pending_writes": (1, 1 << 30),
    "journal_max_jobs": (1, 1 << 30),
    "job_attempts": (1, 1_000),
    "cleanup_interval": (0.05, 31_536_000),
    "cleanup_min_interval": (0, 86_400),
    "shutdown_grace": (0.1, 3_600),
}
_INTEGERS = {
    "port",
    "max_connections",
    "upstash_redis_port",
    "db_pool_max",
    "send_batch",
    "worker_connections",
    "cache_max_entries",
    "cache_max_pending_writes",
    "journal_max_jobs",
    "job_attempts",
}


def _parse(name: str, text: str) -> str | int | float:
    """Return the checked value of one setting."""
    problem = url_checks.text_problem(text)
    if problem is not None:
        raise SettingsError(name.upper(), f"text; {problem}")
    if name in _NUMBERS:
        return _number(name, text)
    if name in _URLS:
        schemes, expected, find_problem = _URLS[name]
        if not _is_url(text, schemes, host_required=name != "database_url"):
            raise SettingsError(name.upper(), expected)
        problem = find_problem(text)
        if problem is not None:
            raise SettingsError(name.upper(), f"{expected}; {problem}")
    if name == "host" and url_checks.host_problem(text) is not None:
        raise SettingsError("HOST", "the name or address of this machine to listen on")
    if name == "log_format" and text not in ("console", "json"):
        raise SettingsError("LOG_FORMAT", "console or json")
    if name == "upstash_redis_ca_file":
        problem = url_checks.certificates_problem(text)
        if problem is not None:
            raise SettingsError("UPSTASH_REDIS_CA_FILE", f"the path of a readable PEM file; {problem}")
    if name in _TOKENS and not _TOKEN.fullmatch(text):
        raise SettingsError(name.upper(), "visible ASCII characters without spaces: a header cannot carry others")
    return text


def _number(name: str, text: str) -> int | float:
    lowest, highest = _NUMBERS[name]
    kind = "a whole number" if name in _INTEGERS else "a number"
    try:
        if not text.isascii() or "_" in text:
            raise ValueError  # Python accepts other digits and 1_000, other programs do not
        value = int(text) if name in _INTEGERS else float(text)
    except ValueError:
        value = math.nan
    if not lowest <= value <= highest:  # false for NaN, too
        raise SettingsError(name.upper(), f"{kind} from {lowest:.10g} to {highest:.10g}")
    return value


def _is_url(text: str, schemes: tuple[str, ...], *, host_required: bool) -> bool:
    try:
        parts = urlsplit(text)
        if host_required:
            _ = parts.port  # raises ValueError if it is not a number; asyncpg accepts lists of host:port
    except ValueError:
        return False
    return parts.scheme in schemes and (bool(parts.hostname) or not host_required)
