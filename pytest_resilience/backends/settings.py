"""The settings of backends, as plain values."""

from __future__ import annotations

from typing import NamedTuple

POSTGRES_IMAGE = "postgres:17"
REDIS_IMAGE = "redis:7"
TOXIPROXY_IMAGE = "ghcr.io/shopify/toxiproxy:2.12.0"


# No dataclass: every run of pytest imports this file, and a dataclass takes a millisecond to make.
class Settings(NamedTuple):
    """The options for backends.

    Args:
        postgres_image, redis_image, toxiproxy_image: the images of the docker backend.
        toxiproxy: URL of the API of the external backend's Toxiproxy.
        toxiproxy_ports: "FIRST-LAST", the ports on which its proxies may listen; None for any.
        tls: True if the embedded servers are reached by TLS.
        proxy: the proxy before the containers of the docker backend: "toxiproxy", or "ours" for that of this package.
        postgres_upstream, redis_upstream: "host:port" as that Toxiproxy reaches them, or a URL with user, password and database.
    """

    postgres_image: str = POSTGRES_IMAGE
    redis_image: str = REDIS_IMAGE
    toxiproxy_image: str = TOXIPROXY_IMAGE
    toxiproxy: str | None = None
    toxiproxy_ports: str | None = None
    postgres_upstream: str | None = None  # may hold a password
    redis_upstream: str | None = None
    tls: bool = False
    proxy: str = "toxiproxy"

    @property
    def images(self) -> list[str]:
        """The images of the containers that the docker backend runs."""
        servers = [self.postgres_image, self.redis_image]
        return servers if self.proxy == "ours" else [*servers, self.toxiproxy_image]

    def __repr__(self) -> str:
        shown = ("postgres_image", "redis_image", "toxiproxy_image", "toxiproxy", "toxiproxy_ports", "tls", "proxy")
        return f"Settings({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"
