"""Postgres: the pool, its monitor and its cleanup, and the tables."""
