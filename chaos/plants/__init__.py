"""Regressions to plant in the service, with the test that must fail and the message that must name the cause.

`scripts/plants` applies the plants to a copy of the service, one at a time. A promise without a plant has never been seen to fail.
"""

from __future__ import annotations

from plants import (
    bounds,
    cache,
    cache_and_outages,
    cadence,
    cleanup,
    contacts,
    deliveries,
    descriptors,
    edge,
    generated,
    health,
    host_environment,
    incident,
    jobs,
    lifecycle,
    live_updates,
    memory,
    metrics,
    postgres,
    redis,
    redis_recovery,
    repeated_failures,
    requests,
    shutdown,
    thresholds,
    verbs,
)

PLANTS = (
    *redis.PLANTS,
    *cache.PLANTS,
    *postgres.PLANTS,
    *memory.PLANTS,
    *health.PLANTS,
    *cleanup.PLANTS,
    *lifecycle.PLANTS,
    *edge.PLANTS,
    *requests.PLANTS,
    *verbs.PLANTS,
    *redis_recovery.PLANTS,
    *cache_and_outages.PLANTS,
    *repeated_failures.PLANTS,
    *shutdown.PLANTS,
    *thresholds.PLANTS,
    *bounds.PLANTS,
    *host_environment.PLANTS,
    *descriptors.PLANTS,
    *jobs.PLANTS,
    *deliveries.PLANTS,
    *contacts.PLANTS,
    *generated.PLANTS,
    *cadence.PLANTS,
    *live_updates.PLANTS,
    *metrics.PLANTS,
    *incident.PLANTS,
)
