"""Exports that a program enqueues and an RQ worker writes."""
