"""Servers that the user runs."""
