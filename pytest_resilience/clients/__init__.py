"""The plugin's own clients of Postgres and Redis. They need no library, so a library under test cannot break them."""
