"""What can go wrong in the service on purpose.

ServiceError
├── SettingsError      the environment is incomplete or malformed: the start ends
└── Unavailable        a dependency, or the service itself, cannot serve right now: 503 with Retry-After
"""

from __future__ import annotations


class ServiceError(Exception):
    """The root of this tree."""


class SettingsError(ServiceError):
    """A setting is missing or malformed. Never carries the value: it may be a secret."""

    def __init__(self, name: str, expected: str) -> None:
        self.name = name
        self.expected = expected
        super().__init__(f"{name}: expected {expected}")


class Unavailable(ServiceError):
    """What was asked cannot be done now; trying again later may work."""

    def __init__(self, detail: str, retry_after: float = 1.0) -> None:
        self.detail = detail
        self.retry_after = retry_after
        super().__init__(detail)
