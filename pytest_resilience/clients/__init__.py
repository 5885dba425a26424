"""Clients of Postgres and Redis for the plugin's own errands: they need no library, so no library under test can break them."""
