"""Prices from a slow source, cached in memcached. The cache may be down, silent or full of nonsense, and prices stay right."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from pymemcache import PooledClient
from pymemcache.exceptions import MemcacheError

TIMEOUT = 0.2  # seconds for a step of the cache: a connection, a send, an answer
EXPIRE = 60  # seconds for which a price is kept

_UNAVAILABLE = (OSError, MemcacheError)


class Prices:
    """Prices by product.

    Args:
        server: host and port of memcached.
        source: returns the price of a product in cents. It is slow and always right.
    """

    def __init__(self, server: tuple[str, int], source: Callable[[str], int]) -> None:
        self._cache = PooledClient(server, connect_timeout=TIMEOUT, timeout=TIMEOUT, max_pool_size=4, no_delay=True)
        self._source = source

    def of(self, product: str) -> int:
        """Return the price in cents, out of the cache if it has one."""
        key = f"price:{product}"
        found = self._cached(key, product)
        if found is not None:
            return found
        cents = self._source(product)
        try:
            self._cache.set(key, json.dumps({"product": product, "cents": cents}), expire=EXPIRE)
        except _UNAVAILABLE:
            pass  # the next caller has to ask the source again
        return cents

    def _cached(self, key: str, product: str) -> int | None:
        """Return the cached price. The entry names its product, because a stream out of step would give that of another."""
        try:
            raw: Any = self._cache.get(key)
            entry = json.loads(raw) if raw is not None else {}
        except (*_UNAVAILABLE, ValueError):
            return None
        return entry["cents"] if isinstance(entry, dict) and entry.get("product") == product else None

    def close(self) -> None:
        """Close the connections."""
        self._cache.close()
