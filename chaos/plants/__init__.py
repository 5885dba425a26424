"""Regressions to plant in the service, each as a tired developer would write it, with the test that must fail and what it must say.

`scripts/plants` applies the plants to a copy of the service, one at a time. A promise without a plant is a promise that nobody
has seen tested.
"""

from __future__ import annotations

from plants import (
    bounds,
    cache,
    cache_and_outages,
    cleanup,
    edge,
    health,
    lifecycle,
    memory,
    postgres,
    redis,
    second_time,
    stopping,
    surroundings,
    thresholds,
    verbs,
    way_back,
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
    *verbs.PLANTS,
    *way_back.PLANTS,
    *cache_and_outages.PLANTS,
    *second_time.PLANTS,
    *stopping.PLANTS,
    *thresholds.PLANTS,
    *bounds.PLANTS,
    *surroundings.PLANTS,
)
