"""Steady state in numbers: what the service promises, each with its unit and where the promise comes from."""

# How the suite runs the service: shorter periods than in production, so that a promise about "the next check" takes a second here.
POOL_MAX = 20  # connections; as on the night of the incident, and quick to fill
POOL_CHECK_INTERVAL = 0.5  # seconds; 30 in production
ACQUIRE_TIMEOUT = 1.0  # seconds that a request waits for a connection; 3 in production
COMMAND_TIMEOUT = 3.0  # seconds that a statement may take; 5 in production
GC_INTERVAL = 30  # seconds; production's
CLEANUP_MIN_INTERVAL = 1.0  # seconds between two cleanups; 10 in production

# What it promises.
REDIS_BUDGET = 0.25  # seconds: all the time that one request may spend on Redis
REDIS_BACK_WITHIN = 2.0  # seconds from the heal until Redis is used again
HEALTH_P99 = 0.050  # seconds: GET /health, under every fault
GUARD_WITHIN = 2.0  # seconds from crossing 90 % of the memory limit to the forced collection
CLEANUP_WITHIN = 2.0  # seconds that a cleanup may take
FULL_CAPACITY_WITHIN = 5.0  # seconds from the heal until the whole pool can be used at once
POSTGRES_BACK_WITHIN = 5.0  # seconds from Postgres being up until requests succeed
SLACK = 0.5  # seconds on top of a deadline that the service keeps by itself: the client and a busy machine
