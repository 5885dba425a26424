"""What a backend may be told, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field

POSTGRES_IMAGE = "postgres:17"
REDIS_IMAGE = "redis:7"
TOXIPROXY_IMAGE = "ghcr.io/shopify/toxiproxy:2.12.0"


@dataclass(frozen=True)
class Settings:
    """What the options say about backends.

    Args:
        postgres_image, redis_image, toxiproxy_image: what the docker backend runs.
        toxiproxy: URL of the API of the external backend's Toxiproxy.
        toxiproxy_ports: "FIRST-LAST", the ports that its proxies may listen on; None for any.
        postgres_upstream, redis_upstream: "host:port" as that Toxiproxy reaches them, or a URL with user, password and database.
    """

    postgres_image: str = POSTGRES_IMAGE
    redis_image: str = REDIS_IMAGE
    toxiproxy_image: str = TOXIPROXY_IMAGE
    toxiproxy: str | None = None
    toxiproxy_ports: str | None = None
    postgres_upstream: str | None = field(default=None, repr=False)  # may hold a password
    redis_upstream: str | None = field(default=None, repr=False)
