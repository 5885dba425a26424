"""A small campaign service that survives faults of Postgres, of Redis and of its own memory."""
