"""The error of a request to Toxiproxy's API."""

from __future__ import annotations


class ApiError(Exception):
    """An error that is the response to a request.

    Attributes:
        status: the HTTP status, 400 to 599.
        message: the text of the body's "error" field.
        reason: the message without Toxiproxy's opening words.
    """

    def __init__(self, status: int, message: str, reason: str | None = None) -> None:
        self.status = status
        self.message = message
        self.reason = reason or message
        super().__init__(f"{status} {message}")


def bad_body(reason: str) -> ApiError:
    """Return the 400 for a body that can't be used, with Toxiproxy's opening words."""
    return ApiError(400, f"bad request body: {reason}", reason)
