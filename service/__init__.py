"""A small campaign service that survives its dependencies: Postgres, Redis and its own memory."""
