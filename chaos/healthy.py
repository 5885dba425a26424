"""The bounds of the steady state, each with its unit and its reason."""

# Settings of the service in this suite. Shorter periods than in production, so that "the next check" comes within a second.
POOL_MAX = 20  # connections; as on the night of the incident, and quick to fill
POOL_CHECK_INTERVAL = 0.5  # seconds; 30 in production
POOL_IDLE_TIMEOUT = 1.0  # seconds until an idle connection is closed; 30 in production
ACQUIRE_TIMEOUT = 1.0  # seconds that a request waits for a connection; 3 in production
COMMAND_TIMEOUT = 3.0  # seconds for a statement; 5 in production
GC_INTERVAL = 30  # seconds; as in production
MEMORY_STATS_INTERVAL = 0.5  # seconds between two lines of statistics; 60 in production
MEMORY_LIMIT_MB = 4096  # MiB, or the machine's memory if that is less; as in production
CLEANUP_MIN_INTERVAL = 1.0  # seconds between two cleanups; 10 in production
SHUTDOWN_GRACE = 4.0  # seconds for requests in flight after SIGTERM; 10 in production
CLEANUP_TOKEN = "a-token-of-the-chaos-suite"

# Promises.
REDIS_BUDGET = 0.25  # seconds that one request may spend on Redis
REDIS_BACK_WITHIN = 2.0  # seconds from the heal until Redis is used again
FALLBACK_READ_MEDIAN = 0.050  # seconds for a read once Redis is known to be down: a look-up in memory without a wait
MAX_CONNECTS_PER_SECOND = (
    25  # connection attempts to Redis during an outage: one prober makes 8, a thundering herd hundreds
)
MAX_CONNECTS_ON_RECOVERY = 25  # connections when Redis is back: a pool of 20, and the prober's
UNREADY_WITHIN = 2.0  # seconds from an outage of Postgres until /readyz is 503
READINESS_MAX_AGE = 1.0  # seconds that the state in /readyz may be old
HEALTH_P99 = 0.050  # seconds for GET /health and /metrics under every fault
GUARD_WITHIN = 2.0  # seconds from 90 % of the memory limit to the forced collection
GUARD_MAX_STALL = 1.0  # seconds that the guard may delay all requests
CLEANUP_WITHIN = 2.0  # seconds for a cleanup
MAX_RETRY_AFTER = 10  # seconds in a 503's Retry-After; the service recovers sooner
MIN_CACHE_SHARE_FREED = 0.25  # of the memory cache, by the guard, which frees half
MAX_CACHE_SHARE_FREED = 0.75
FULL_CAPACITY_WITHIN = 5.0  # seconds from the heal until the whole pool is usable at once
POSTGRES_BACK_WITHIN = 5.0  # seconds from Postgres being up until requests succeed
LISTENING_WITHIN = 2.0  # seconds from the start of the process to the first response of /health, without dependencies
SLACK = 0.5  # seconds on top of a deadline of the service, for the client and a busy machine

# Settings of production without configuration: the figures after the incident, with unit and reason.
DEFAULTS: dict[str, tuple[float, str]] = {
    "DB_POOL_MAX": (100, "connections; a pool of 20 was 94 % used in the incident"),
    "DB_POOL_IDLE_TIMEOUT": (30, "seconds; an idle connection is missing to other clients of the server"),
    "DB_POOL_ACQUIRE_TIMEOUT": (3, "seconds; by then the client has given up"),
    "DB_POOL_CHECK_INTERVAL": (30, "seconds; a later alert is too late"),
    "DB_POOL_ALERT_PERCENT": (90, "percent; above it there is hardly time to act"),
    "DB_COMMAND_TIMEOUT": (5, "seconds; a longer statement blocks a connection that others need"),
    "REDIS_BUDGET": (0.25, "seconds; a slower cache is no help"),
    "MEMORY_LIMIT_MB": (4096, "MiB; the memory of the production container"),
    "MEMORY_CHECK_INTERVAL": (1, "second; the guard has to act within two"),
    "MEMORY_STATS_INTERVAL": (60, "seconds; a line each minute"),
    "GC_INTERVAL": (30, "seconds"),
    "CACHE_TTL": (60, "seconds for which a copy is fresh"),
    "CACHE_STALE_TTL": (600, "seconds for which a copy is better than an error"),
    "CACHE_MAX_ENTRIES": (10_000, "entries; an unbounded cache is a leak"),
    "CACHE_MAX_MB": (64, "MiB; an unbounded cache is a leak"),
    "CLEANUP_INTERVAL": (21_600, "seconds; the backstop, every six hours"),
    "CLEANUP_MIN_INTERVAL": (10, "seconds between two cleanups by request"),
    "SHUTDOWN_GRACE": (10, "seconds for requests in flight"),
    "PORT": (8080, "where clients expect the service"),
    "HEADER_TIMEOUT": (10, "seconds; a silent client takes a connection that others need"),
    "BODY_TIMEOUT": (10, "seconds; a slow client takes a connection that others need"),
    "UPSTASH_REDIS_PORT": (6379, "where Upstash listens"),
    "WORKER_CONNECTIONS": (2, "connections; requests come first"),
    "SEND_BATCH": (100, "recipients; a batch is sent again as a whole"),
    "GATEWAY_TIMEOUT": (5, "seconds; a transaction is open meanwhile"),
    "CACHE_MAX_PENDING_WRITES": (50_000, "writes; an unbounded list is a leak"),
    "JOURNAL_MAX_JOBS": (10_000, "jobs; an unbounded file fills the disk"),
    "JOB_ATTEMPTS": (5, "runs; a job that always fails must end"),
}

# Those that are no numbers. None means unset.
OTHER_DEFAULTS: dict[str, tuple[str | None, str]] = {
    "HOST": ("0.0.0.0", "clients of a container come from other addresses"),
    "MAX_CONNECTIONS": (None, "the number that the limit of descriptors leaves"),
    "REDIS_URL": (None, "localhost:6379 is tried"),
    "UPSTASH_REDIS_REST_URL": (None, "REDIS_URL is the usual one"),
    "UPSTASH_REDIS_REST_TOKEN": (None, "a token is a secret"),
    "UPSTASH_REDIS_CA_FILE": (None, "the certificates of the system are trusted"),
    "GATEWAY_URL": (None, "nothing is sent by accident"),
    "CLEANUP_TOKEN": (None, "a token is a secret"),
    "JOURNAL_DIR": (".service-journal", "in the working directory, which outlives a restart of the machine"),
    "LOG_FORMAT": ("console", "people read it"),
}


def settings(database_url: str, redis_url: str) -> dict[str, str]:
    """Return the environment that the suite runs the service with."""
    return {
        "HOST": "127.0.0.1",
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "REDIS_BUDGET": str(REDIS_BUDGET),
        "DB_POOL_MAX": str(POOL_MAX),
        "DB_POOL_CHECK_INTERVAL": str(POOL_CHECK_INTERVAL),
        "DB_POOL_IDLE_TIMEOUT": str(POOL_IDLE_TIMEOUT),
        "DB_POOL_ACQUIRE_TIMEOUT": str(ACQUIRE_TIMEOUT),
        "DB_COMMAND_TIMEOUT": str(COMMAND_TIMEOUT),
        "GC_INTERVAL": str(GC_INTERVAL),
        "MEMORY_STATS_INTERVAL": str(MEMORY_STATS_INTERVAL),
        "MEMORY_LIMIT_MB": str(MEMORY_LIMIT_MB),
        "CLEANUP_MIN_INTERVAL": str(CLEANUP_MIN_INTERVAL),
        "CLEANUP_TOKEN": CLEANUP_TOKEN,
        "SHUTDOWN_GRACE": str(SHUTDOWN_GRACE),
        "TZ": "Asia/Kolkata",  # a zone with half an hour, so that a local timestamp labelled as UTC is noticed
    }
