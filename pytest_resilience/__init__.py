"""Resilience tests for Python services: what there is to call."""

__version__ = "0.1.0"

# `-p pytest_resilience` and the entry point both load this package; the hooks live one floor up.
pytest_plugins = ("pytest_resilience.plugin",)
