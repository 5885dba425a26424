"""Plants in the metrics."""

from __future__ import annotations

from plants.plant import plant

LATENCY = "test_metrics.py::test_metrics_answer_within_50_ms_during_an_outage"
REDIS = "test_metrics.py::test_an_outage_of_redis_shows_until_it_ends"
STARVED = "test_metrics.py::test_a_starved_pool_shows_until_it_recovers"
LABELS = "test_metrics.py::test_labels_hold_no_secret_no_address_and_nothing_that_a_client_sends"
LOCALHOST = "test_metrics.py::test_without_redis_url_the_redis_of_localhost_shows_until_it_is_down"
POSTGRES = "test_metrics.py::test_an_outage_of_postgres_shows_until_it_ends"
SCRAPE = "        content, media_type = self._metrics.render("
NO_HTTP = "test_metrics.py::test_a_request_that_is_no_http_is_counted_without_a_time"

PLANTS = (
    plant(
        "metrics-ping-redis",
        "A gauge should show the present state.",
        (
            "http/routes.py",
            SCRAPE,
            "        from contextlib import suppress\n\n        from redis.asyncio import Redis\n\n        with suppress(Exception):\n            async with Redis.from_url(self._settings.redis_url or '', socket_timeout=1) as client:\n                await client.ping()\n"
            + SCRAPE,
        ),
        tests=f"{LATENCY}[redis hangs]",
        message="/metrics waits",
    ),
    plant(
        "metrics-query-postgres",
        "The number of campaigns is worth a gauge.",
        (
            "http/routes.py",
            SCRAPE,
            '        await self._cleanup._database.read("SELECT count(*) FROM campaigns")\n' + SCRAPE,
        ),
        tests=f"{LATENCY}[postgres hangs]",
        message="/metrics",
    ),
    plant(
        "metrics-refused",
        "Prometheus can wait until there is memory again.",
        ("http/load_shedding.py", '"/readyz", "/metrics", ', '"/readyz", '),
        tests="test_memory_pressure.py::test_load_is_shed_near_the_memory_limit_and_logged_once_and_essential_routes_are_served",
        message="/metrics is needed most when memory is short",
    ),
    plant(
        "breaker-open-for-ever",
        "There was an outage.",
        ("metrics.py", "_one(lambda s: not s.cache.redis.up)", "_one(lambda s: s.cache.redis.outages)"),
        tests=REDIS,
        message="the metrics still report an open circuit breaker",
    ),
    plant(
        "cache-source-by-the-settings",
        "The source does not change while the service runs.",
        ("metrics.py", 's.cache.redis.source if s.cache.redis.up else "memory"', "s.cache.redis.source"),
        tests=REDIS,
        message="Redis is down, and reads use",
    ),
    plant(
        "memory-hits-not-counted",
        "Count the lookups that cost something.",
        (
            "cache/cache.py",
            "        self.reads[result.source, result.state] += 1",
            '        self.reads[result.source, result.state] += result.source != "memory"',
        ),
        tests=REDIS,
        message="the metrics do not count it there",
    ),
    plant(
        "pool-in-use-is-pool-size",
        "asyncpg has the number.",
        ("metrics.py", "_one(lambda s: s.database.usage.in_use)", "_one(lambda s: s.database.size())"),
        tests=STARVED,
        message="the metrics report connections in use",
    ),
    plant(
        "alert-active-for-ever",
        "It was raised.",
        ("metrics.py", "sources.pool_alert.raised", "sources.pool_alert.episodes > 0"),
        tests=STARVED,
        message="the metrics report it as active",
    ),
    plant(
        "alert-counted-by-check",
        "Each check that finds the pool full counts.",
        ("monitor.py", "            self.episodes += is_first\n", "            self.episodes += 1\n"),
        tests=STARVED,
        message="one episode of the alert is counted as",
    ),
    plant(
        "times-of-successes-only",
        "An error says nothing about our speed.",
        (
            "request_counts.py",
            "        times.buckets[bisect_left(BUCKETS, seconds)] += 1",
            "        if status < 500:\n            times.buckets[bisect_left(BUCKETS, seconds)] += 1",
        ),
        tests=STARVED,
        message="requests got a 503, and the metrics count 0",
    ),
    plant(
        "paths-as-labels",
        "Then one sees which campaign is slow.",
        ("http/request_timing.py", "_template(scope), status", 'scope["path"], status'),
        tests=LABELS,
        message="each client can add time series",
    ),
    plant(
        "methods-as-labels",
        "There are only a few.",
        ("request_counts.py", "method if method in METHODS else OTHER", "method"),
        tests=LABELS,
        message="each client can add time series",
    ),
    plant(
        "database-url-as-label",
        "With several databases, one has to know which.",
        (
            "metrics.py",
            "        yield (name,), float(active)",
            '        yield (f"{name} of {sources.database._settings.database_url}",), float(active)',
        ),
        tests=LABELS,
        message="the metrics reveal",
    ),
    plant(
        "metrics-pending-writes-gone",
        "The cache has them.",
        (
            "metrics.py",
            "_one(lambda s: s.cache.pending_writes)",
            "_one(lambda s: s.cache.pending_writes * s.cache.redis.up)",
        ),
        tests=REDIS,
        message="Redis has missed one write, and the metrics report 0",
    ),
    plant(
        "metrics-waiting-never-down",
        "The peak is what matters.",
        ("postgres/pool.py", "            self.usage.waiting -= not worker\n", "            pass\n"),
        tests=STARVED,
        message="requests wait, and the metrics do not report a full pool",
    ),
    plant(
        "metrics-in-progress-of-all-time",
        "Requests are counted.",
        (
            "metrics.py",
            "_one(lambda s: s.lifecycle.in_flight)",
            "_one(lambda s: sum(times.count for times in s.requests.by_kind.values()))",
        ),
        tests=STARVED,
        message="requests are under way, and the metrics report",
    ),
    plant(
        "metrics-state-of-the-start",
        "It was up.",
        ("metrics.py", "_one_of(STATES, lambda s: s.postgres_status.state)", '_one_of(STATES, lambda s: "up")'),
        tests=POSTGRES,
        message="Postgres is down, and the metrics do not report that",
    ),
    plant(
        "metrics-text-only",
        "Prometheus reads text.",
        (
            "metrics.py",
            "            encode, media_type = choose_encoder(accept)\n",
            '            encode, media_type = choose_encoder("")\n',
        ),
        tests=LABELS,
        message="Accept asks for OpenMetrics",
    ),
    plant(
        "metrics-utilisation-of-the-peak",
        "The peak is what matters.",
        (
            "metrics.py",
            "_one(lambda s: s.database.usage.in_use / s.database.usage.size)",
            "_one(lambda s: 1.0 if s.pool_alert.episodes else s.database.usage.in_use / s.database.usage.size)",
        ),
        tests="test_metrics.py::test_a_starved_pool_shows_until_it_recovers",
        message="connections are in use, and the metrics report a share of 1",
    ),
    plant(
        "metrics-memory-alerts-counted-once",
        "There was one.",
        (
            "metrics.py",
            "sources.guard.in_episode, sources.guard.episodes",
            "sources.guard.in_episode, min(1, sources.guard.episodes)",
        ),
        tests=(
            "test_repeated_failures.py::"
            "test_a_second_memory_shortage_is_logged_sheds_load_and_restores_the_reserve_like_the_first"
        ),
        message="memory was short two times, and the metrics count 1 episodes",
    ),
    plant(
        "metrics-upstash-is-redis",
        "Upstash is a Redis.",
        ("cache/redis_store.py", '            return "upstash"\n', '            return "redis"\n'),
        tests="test_repeated_failures.py::test_upstash_is_used_again_after_each_outage_and_never_replaced",
        message="Upstash is used, and the metrics report the sources",
    ),
    plant(
        "metrics-localhost-is-redis",
        "It is a Redis like any other.",
        (
            "cache/redis_store.py",
            'return "redis" if self._settings.redis_url else "localhost"',
            'return "redis"',
        ),
        tests=LOCALHOST,
        message="the Redis at localhost is used, and the metrics report",
    ),
    plant(
        "metrics-localhost-while-it-is-down",
        "The source is a setting.",
        (
            "metrics.py",
            's.cache.redis.source if s.cache.redis.up else "memory"',
            '"memory" if not s.cache.redis.up and s.cache.redis.source != "localhost" else s.cache.redis.source',
        ),
        tests=LOCALHOST,
        message="the Redis at localhost is down, and the metrics report",
    ),
    plant(
        "localhost-not-tried",
        "Without a URL there is no Redis.",
        (
            "cache/redis_store.py",
            'settings.redis_url or "redis://localhost:6379"',
            'settings.redis_url or "redis://localhost:1"',
        ),
        tests=LOCALHOST,
        message="Redis is up, and after 2 s /readyz does not report that",
    ),
    plant(
        "requests-that-are-no-http-not-counted",
        "What is no request is not counted.",
        ("http/connections.py", "        self.tracker.requests.add(OTHER, None, status, 0.0)\n", ""),
        tests=NO_HTTP,
        message="two requests were no HTTP, and the metrics count 0",
    ),
    plant(
        "requests-that-are-no-http-have-a-time",
        "Each request takes a millisecond.",
        (
            "http/connections.py",
            "self.tracker.requests.add(OTHER, None, status, 0.0)",
            "self.tracker.requests.add(OTHER, None, status, 0.001)",
        ),
        tests=NO_HTTP,
        message="two requests were no HTTP, and the metrics count 2 and 2 with 0.002 s",
    ),
)
