"""Invoices that a Flask process takes and a Celery worker prints."""
