"""Steady state in numbers: what the service promises, each with its unit and where the promise comes from."""

# How the suite runs the service: shorter periods than in production, so that a promise about "the next check" takes a second here.
POOL_MAX = 20  # connections; as on the night of the incident, and quick to fill
POOL_CHECK_INTERVAL = 0.5  # seconds; 30 in production
POOL_IDLE_TIMEOUT = 1.0  # seconds that a connection may idle; 30 in production
ACQUIRE_TIMEOUT = 1.0  # seconds that a request waits for a connection; 3 in production
COMMAND_TIMEOUT = 3.0  # seconds that a statement may take; 5 in production
GC_INTERVAL = 30  # seconds; production's
MEMORY_STATS_INTERVAL = 0.5  # seconds between two lines of statistics; 60 in production
CLEANUP_MIN_INTERVAL = 1.0  # seconds between two cleanups; 10 in production
SHUTDOWN_GRACE = 4.0  # seconds for requests under way when it is told to stop; 10 in production

# What it promises.
REDIS_BUDGET = 0.25  # seconds: all the time that one request may spend on Redis
REDIS_BACK_WITHIN = 2.0  # seconds from the heal until Redis is used again
FALLBACK_READ_MEDIAN = (
    0.050  # seconds for the median read once Redis is known to be away: it costs a look into memory, no wait
)
MAX_CONNECTS_PER_SECOND = (
    25  # attempts to reach Redis while it is away; one prober makes about 8, a herd makes hundreds
)
MAX_CONNECTS_ON_RECOVERY = 25  # connections made in the moment when Redis is back: a pool of 20, and the prober's
READINESS_MAX_AGE = 1.0  # seconds that what /readyz tells may be old
HEALTH_P99 = 0.050  # seconds: GET /health, under every fault
GUARD_WITHIN = 2.0  # seconds from crossing 90 % of the memory limit to the forced collection
GUARD_MAX_STALL = 1.0  # seconds that the guard may keep everybody waiting
MEMORY_LIMIT_MB = 4096  # MiB; production's, or what the machine has when that is less
CLEANUP_WITHIN = 2.0  # seconds that a cleanup may take
MAX_RETRY_AFTER = 10  # seconds: the most that a 503 may tell a client to wait; the service itself is back sooner
MAX_CACHE_SHARE_FREED = 0.75  # of the cache, under the guard: it lets go of half
FULL_CAPACITY_WITHIN = 5.0  # seconds from the heal until the whole pool can be used at once
POSTGRES_BACK_WITHIN = 5.0  # seconds from Postgres being up until requests succeed
LISTENING_WITHIN = 2.0  # seconds from the start of the process to the first answer of /health, with nothing else there
SLACK = 0.5  # seconds on top of a deadline that the service keeps by itself: the client and a busy machine

# What production gets where nobody sets anything: the figures after the incident.
DEFAULTS: dict[str, tuple[float, str]] = {
    "DB_POOL_MAX": (100, "connections; 20 were 94 % in use"),
    "DB_POOL_IDLE_TIMEOUT": (30, "seconds; what idles for longer is somebody else's connection"),
    "DB_POOL_ACQUIRE_TIMEOUT": (3, "seconds; who waits for longer has gone away"),
    "DB_POOL_CHECK_INTERVAL": (30, "seconds; an alert that comes later comes too late"),
    "DB_POOL_ALERT_PERCENT": (90, "percent; above it there is hardly time to act"),
    "DB_COMMAND_TIMEOUT": (5, "seconds; a statement that takes longer holds a connection that others need"),
    "REDIS_BUDGET": (0.25, "seconds; a cache that takes longer is none"),
    "MEMORY_LIMIT_MB": (4096, "MiB; what the process is given"),
    "MEMORY_CHECK_INTERVAL": (1, "second; the guard has to act within two"),
    "MEMORY_STATS_INTERVAL": (60, "seconds; a line each minute"),
    "GC_INTERVAL": (30, "seconds"),
    "CACHE_TTL": (60, "seconds for which a copy is as good as the row"),
    "CACHE_STALE_TTL": (600, "seconds for which a copy is better than nothing"),
    "CACHE_MAX_ENTRIES": (10_000, "entries; a cache without bounds is a leak"),
    "CACHE_MAX_MB": (64, "MiB; a cache without bounds is a leak"),
    "CLEANUP_INTERVAL": (21_600, "seconds; the backstop, every six hours"),
    "CLEANUP_MIN_INTERVAL": (10, "seconds between two cleanups, whoever asks"),
    "SHUTDOWN_GRACE": (10, "seconds for requests under way"),
}

CLEANUP_TOKEN = "a-token-of-the-chaos-suite"


def settings(database_url: str, redis_url: str) -> dict[str, str]:
    """The environment that the suite runs the service in."""
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
        "TZ": "Asia/Kolkata",  # half past somewhere else: a timestamp in local time that calls itself UTC shows
    }
