"""Servers and Toxiproxy in containers."""
