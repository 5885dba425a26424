"""The cache: Redis, memory, and the writes that Redis has missed."""
