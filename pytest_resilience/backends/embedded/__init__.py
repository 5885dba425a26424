"""Postgres, Redis and the proxy as processes on loopback."""
