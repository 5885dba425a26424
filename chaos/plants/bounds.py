"""Plants that shift a bound slightly, or bound something that must be unbounded."""

from __future__ import annotations

from plants.plant import plant

BODY = "test_bounds.py::test_a_body_of_1_mib_is_accepted_and_one_more_byte_is_refused"
TEXTS = "test_bounds.py::test_text_lengths_are_limited_in_characters_and_not_in_bytes"
PAGES = "test_bounds.py::test_page_limits_are_exact_and_the_pages_cover_every_campaign_once"
CACHE = "test_bounds.py::test_the_memory_cache_holds_exactly_the_entries_and_bytes_that_are_configured"
POOL = "test_bounds.py::test_the_pool_opens_exactly_db_pool_max_connections_and_one_monitor_beside_it"
HEALTH = "test_bounds.py::test_health_routes_answer_and_no_request_is_rejected_while_150_requests_wait"
REDIS = "test_bounds.py::test_connections_to_redis_stay_within_their_limit"
BUDGET = "test_bounds.py::test_redis_gets_exactly_the_time_of_redis_budget"

PLANTS = (
    plant(
        "body-bound-without-its-last-byte",
        "Less than a MiB.",
        (
            "http/routes.py",
            "                if len(body) > MAX_BODY_BYTES:",
            "                if len(body) >= MAX_BODY_BYTES:",
        ),
        tests=BODY,
        message="a body of exactly 1 MiB",
    ),
    plant(
        "body-bound-by-content-length",
        "Content-Length is the length.",
        (
            "http/routes.py",
            "                if len(body) > MAX_BODY_BYTES:",
            "                if len(body) > 2 * MAX_BODY_BYTES:",
        ),
        tests=BODY,
        message="a body of 1 MiB and a byte, in chunks",
    ),
    plant(
        "texts-in-bytes",
        "Postgres stores bytes.",
        ("postgres/campaigns.py", "len(value)", "len(value.encode())"),
        tests=TEXTS,
        message="characters of",
    ),
    plant(
        "names-a-little-longer",
        "One more does not hurt.",
        ("postgres/campaigns.py", 'MAX_LENGTH = {"name": 200,', 'MAX_LENGTH = {"name": 255,'),
        tests=TEXTS,
        message="201 characters",
    ),
    plant(
        "pages-of-100",
        "200 on a page are too many.",
        ("http/routes.py", "default=PAGE, lowest=1, highest=MAX_PAGE)", "default=PAGE, lowest=1, highest=201)"),
        ("http/routes.py", "        page = items[:limit]", "        page = items[: min(limit, 100)]"),
        tests=PAGES,
        message="there are 100 of 402 campaigns on the page",
    ),
    plant(
        "pages-of-any-size",
        "Clients know how many they need.",
        ("http/routes.py", "default=PAGE, lowest=1, highest=MAX_PAGE)", "default=PAGE, lowest=1, highest=1000)"),
        tests=PAGES,
        message="limit=201",
    ),
    plant(
        "pages-leave-one-out",
        "The next page begins after the last row that was read.",
        ("http/routes.py", "page[-1].id if has_more", "items[-1].id if has_more"),
        tests=PAGES,
        message="the pages together list",
    ),
    plant(
        "last-page-has-a-next",
        "A full page has a next one.",
        ("http/routes.py", "        has_more = len(items) > limit", "        has_more = len(items) >= limit"),
        tests=PAGES,
        message="the last page is full",
    ),
    plant(
        "cache-one-entry-more",
        "Check before it is put.",
        ("cache/memory_cache.py", "len(self._entries) > max_entries or", "len(self._entries) > max_entries + 1 or"),
        tests=CACHE,
        message="CACHE_MAX_ENTRIES=7",
    ),
    plant(
        "cache-counts-bodies-only",
        "The body is what takes memory.",
        ("cache/memory_cache.py", "OVERHEAD = 400", "OVERHEAD = 0"),
        tests=CACHE,
        message="has room for",
    ),
    plant(
        "cache-half-of-its-bytes",
        "Leave some room.",
        (
            "cache/cache.py",
            "max_bytes=int(settings.cache_max_mb * MIB)",
            "max_bytes=int(settings.cache_max_mb * 750_000)",
        ),
        tests=CACHE,
        message="has room for",
    ),
    plant(
        "pool-a-few-more",
        "In an emergency there are a few more.",
        ("postgres/pool.py", "ConnectionSlots(settings.db_pool_max,", "ConnectionSlots(settings.db_pool_max + 3,"),
        (
            "postgres/pool.py",
            "            max_size=self._settings.db_pool_max,",
            "            max_size=self._settings.db_pool_max + 3,",
        ),
        tests=POOL,
        message="DB_POOL_MAX is 5",
    ),
    plant(
        "pool-keeps-one-back",
        "Keep one for the health check.",
        (
            "postgres/pool.py",
            "ConnectionSlots(settings.db_pool_max,",
            "ConnectionSlots(max(1, settings.db_pool_max - 1),",
        ),
        tests=POOL,
        message="DB_POOL_MAX is 5",
    ),
    plant(
        "health-behind-100-requests",
        "uvicorn has a setting for that.",
        (
            "__main__.py",
            "        access_log=False,",
            "        access_log=False,\n        limit_concurrency=100,",
        ),
        tests=HEALTH,
        message="requests ha",
    ),
    plant(
        "redis-connections-unbounded",
        "Connections are cheap.",
        ("cache/redis_store.py", "MAX_CONNECTIONS = 20\n", "MAX_CONNECTIONS = 20\nMANY = 500\n"),
        ("cache/redis_store.py", "else MAX_CONNECTIONS)", "else MANY)"),
        ("cache/redis_store.py", '"max_connections": MAX_CONNECTIONS + 2', '"max_connections": MANY'),
        tests=REDIS,
        message="connections to Redis",
    ),
    plant(
        "budget-never-more-than-its-default",
        "A quarter of a second is plenty.",
        (
            "cache/cache.py",
            "        self._budget = settings.redis_budget",
            "        self._budget = min(0.25, settings.redis_budget)",
        ),
        tests=BUDGET,
        message="REDIS_BUDGET is 3",
    ),
    plant(
        "budget-never-less-than-a-second",
        "Redis needs some time.",
        (
            "cache/cache.py",
            "        self._budget = settings.redis_budget",
            "        self._budget = max(1.5, settings.redis_budget)",
        ),
        ("cache/redis_store.py", "budget = settings.redis_budget\n", "budget = max(1.5, settings.redis_budget)\n"),
        tests=BUDGET,
        message="requests wait for it",
    ),
    plant(
        "probe-less-patient-than-requests",
        "A probe is small.",
        (
            "cache/redis_store.py",
            "self._probe_timeout = max(budget, PROBE_TIMEOUT)",
            "self._probe_timeout = PROBE_TIMEOUT",
        ),
        tests=BUDGET,
        message="REDIS_BUDGET is 3",
    ),
)
