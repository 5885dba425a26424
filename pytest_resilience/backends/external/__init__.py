"""Postgres, Redis and a Toxiproxy that the user runs."""
