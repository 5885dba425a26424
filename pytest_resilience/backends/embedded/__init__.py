"""Servers from wheels, as child processes of the supervisor."""
