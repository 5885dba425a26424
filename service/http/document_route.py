"""The route of the description of the API."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .routes import route


def document_routes() -> list[Route]:
    """Return the route of /openapi.json."""
    return [route("/openapi.json", GET=_openapi)]


async def _openapi(_: Request) -> Response:
    from .openapi import document  # at the first request, because the start does not need it

    return Response(document(), media_type="application/json")
