"""Orders in Postgres, paid through a payment API that may be slow, down or wrong."""
