"""Postgres, Redis and Toxiproxy in containers."""
