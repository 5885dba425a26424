"""The sources of Postgres, Redis and their proxy."""

BUILT_IN = ("embedded", "docker", "external")
