"""The errors that the service raises on purpose.

ServiceError
├── SettingsError      the environment is incomplete or malformed, so the start ends
└── Unavailable        a dependency, or the service itself, cannot serve right now: 503 with Retry-After
"""

from __future__ import annotations


class ServiceError(Exception):
    """The root of this tree."""


class SettingsError(ServiceError):
    """A setting is missing or malformed. The message never holds the value, which may be a secret."""

    def __init__(self, name: str, expected: str) -> None:
        self.name = name
        self.expected = expected
        super().__init__(f"{name}: expected {expected}")


class Unavailable(ServiceError):
    """A request cannot be served now. A later attempt may succeed."""

    def __init__(self, detail: str, retry_after: float = 1.0) -> None:
        self.detail = detail
        self.retry_after = retry_after
        super().__init__(detail)
