"""The hooks that your conftest.py or plugin may implement."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .backends.registry import BackendFactory


@pytest.hookspec
def pytest_resilience_backends() -> dict[str, BackendFactory]:  # type: ignore[empty-body]  # a specification has none
    """Return backends by the names that --resilience-backend then accepts.

    Each is a function that takes `backends.settings.Settings` and returns a `backends.backend.Backend`. The hook is called for
    plugins and for the conftest.py files that pytest reads at its start.
    """
