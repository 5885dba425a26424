"""Clients of a running server, for clean states, faults and leak checks."""
