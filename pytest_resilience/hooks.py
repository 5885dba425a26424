"""The hooks that others may implement, in a conftest.py or a plugin of theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .backends.registry import BackendFactory


@pytest.hookspec
def pytest_resilience_backends() -> dict[str, BackendFactory]:  # type: ignore[empty-body]  # a specification has none
    """Add backends: by name, a function that takes `backends.settings.Settings` and returns a `backends.backend.Backend`.

    The name can then be given to --resilience-backend. Only plugins and the conftest.py files that pytest reads at its start are asked.
    """
