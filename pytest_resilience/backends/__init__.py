"""Where Postgres, Redis and the proxy come from."""

BUILT_IN = ("embedded", "docker", "external")
