"""HTTP in, HTTP out."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .cache import Cache
from .campaigns import HIGHEST_ID, Campaign, Campaigns, WrongFields, changed_fields, new_fields
from .cleanup import Cleanup, TooSoon, refusal
from .errors import Unavailable
from .fallback import Entry
from .health import Health, now
from .problems import Problem

if TYPE_CHECKING:
    from .settings import Settings

LARGEST_BODY = 1 << 20
NO_STORE = {"Cache-Control": "no-store"}


class CampaignRoutes:
    """The campaigns."""

    def __init__(self, campaigns: Campaigns, cache: Cache, *, body_timeout: float) -> None:
        self._body_timeout = body_timeout
        self._campaigns = campaigns
        self._cache = cache

    def routes(self) -> list[Route]:
        return [
            Route("/api/campaigns", self.create, methods=["POST"]),
            Route("/api/campaigns", self.list, methods=["GET"]),
            Route("/api/campaigns/{id}", self.get, methods=["GET"]),
            Route("/api/campaigns/{id}", self.change, methods=["PUT"]),
            Route("/api/campaigns/{id}", self.delete, methods=["DELETE"]),
        ]

    async def create(self, request: Request) -> Response:
        campaign = await self._campaigns.create(new_fields(await read_json(request, self._body_timeout)))
        entry = campaign.entry()
        await self._cache.wrote(campaign.id, entry)
        return _answer(entry, status=201, headers={"Location": f"/api/campaigns/{campaign.id}"})

    async def get(self, request: Request) -> Response:
        campaign_id = _id(request)

        async def load() -> Entry | None:
            campaign = await self._campaigns.get(campaign_id)
            return None if campaign is None else campaign.entry()

        answer = await self._cache.read(campaign_id, load)
        headers: dict[str, str] = {"X-Cache": answer.state, "X-Cache-Source": answer.source}
        if answer.entry is None:
            raise HTTPException(404, "There is no such campaign.", headers)
        return _answer(answer.entry, headers=headers)

    async def list(self, request: Request) -> Response:
        limit = _number(request, "limit", default=50, lowest=1, highest=200)
        after = _number(request, "after", default=0, lowest=0, highest=HIGHEST_ID)
        items = await self._campaigns.list(after=after, limit=limit + 1)
        more = len(items) > limit
        page = items[:limit]
        return JSONResponse({"items": [c.as_dict() for c in page], "next": page[-1].id if more else None})

    async def change(self, request: Request) -> Response:
        campaign_id = _id(request)
        fields = changed_fields(await read_json(request, self._body_timeout))
        campaign = await self._change(campaign_id, fields, request.headers.get("if-match"))
        entry = campaign.entry()
        await self._cache.wrote(campaign_id, entry)
        return _answer(entry)

    async def delete(self, request: Request) -> Response:
        campaign_id = _id(request)
        try:
            created = await self._campaigns.delete(campaign_id)
        except Unavailable:
            self._cache.doubt(campaign_id)
            raise
        if created is None:
            raise HTTPException(404, "There is no such campaign.")
        await self._cache.deleted(campaign_id, created)
        return Response(status_code=204)

    async def _change(self, campaign_id: int, fields: dict[str, str], if_match: str | None) -> Campaign:
        versions = None if if_match is None or if_match.strip() == "*" else _versions(if_match)
        try:
            for version in [None] if versions is None else versions:
                campaign = await self._campaigns.change(campaign_id, fields, version)
                if campaign is not None:
                    return campaign
        except Unavailable:
            self._cache.doubt(campaign_id)
            raise
        if await self._campaigns.get(campaign_id) is None:
            raise HTTPException(404, "There is no such campaign.")
        raise HTTPException(412, "The campaign has another version by now.")


class ServiceRoutes:
    """Health and cleanup."""

    def __init__(self, settings: Settings, health: Health, cleanup: Cleanup) -> None:
        self._settings = settings
        self._health = health
        self._cleanup = cleanup

    def routes(self) -> list[Route]:
        cleanup = Route("/api/db-cleanup", self.clean_up, methods=["GET", "POST"])
        assert cleanup.methods is not None
        cleanup.methods.discard("HEAD")  # it would clean up, and not say so
        return [
            Route("/health", self.healthy, methods=["GET"]),
            Route("/livez", self.live, methods=["GET"]),
            Route("/readyz", self.ready, methods=["GET"]),
            cleanup,
        ]

    async def healthy(self, request: Request) -> Response:
        return JSONResponse(self._health.healthy(), headers=NO_STORE)

    async def live(self, request: Request) -> Response:
        return JSONResponse({"status": "alive"}, headers=NO_STORE)

    async def ready(self, request: Request) -> Response:
        ready, content = self._health.ready()
        headers = NO_STORE if ready else {**NO_STORE, "Retry-After": "1"}
        return JSONResponse(content, 200 if ready else 503, headers)

    async def clean_up(self, request: Request) -> Response:
        peer = request.client.host if request.client else None
        refused = refusal(self._settings, peer, request.headers.get("authorization"))
        if refused is not None:
            headers = {**NO_STORE, "WWW-Authenticate": "Bearer"}
            return Problem(refused, "This needs the cleanup token, or a caller on this machine.", headers=headers)
        try:
            cleaned = await self._cleanup.run(least_interval=self._settings.cleanup_min_interval)
        except TooSoon as error:
            return Problem(429, "The last cleanup was a moment ago.", headers=NO_STORE, retry_after=error.retry_after)
        content: dict[str, object] = {
            "status": "success",
            "message": "Database pool cleanup triggered",
            "timestamp": now(),
        }
        if "verbose" in request.query_params:
            content |= asdict(cleaned)
        return JSONResponse(content, headers=NO_STORE)


async def read_json(request: Request, seconds: float) -> object:
    """The body, if it is JSON, not too large, and all of it comes within so many seconds."""
    too_large = HTTPException(413, f"The body may have {LARGEST_BODY} bytes.")
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced[:20]) > LARGEST_BODY:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > LARGEST_BODY:
                    raise too_large
    except TimeoutError:
        raise HTTPException(408, "The body took too long.", {"Connection": "close"}) from None
    try:
        parsed: object = json.loads(body)
    except (ValueError, RecursionError):
        raise HTTPException(400, "The body is not JSON.") from None
    return parsed


def _answer(entry: Entry, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    headers = {**(headers or {}), "ETag": f'"{entry.stamp[1]}"'}
    return Response(entry.body, status, headers, media_type="application/json")


def _id(request: Request) -> int:
    text = request.path_params["id"]
    if text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= HIGHEST_ID:
        return int(text)
    raise HTTPException(404, "There is no such campaign.")


def _number(request: Request, name: str, *, default: int, lowest: int, highest: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if text.isascii() and text.isdigit() and len(text) <= 19 and lowest <= int(text) <= highest:
        return int(text)
    raise WrongFields({name: f"must be a whole number from {lowest} to {highest}"})


def _versions(if_match: str) -> list[int | None]:
    """The versions that an If-Match header allows. Weak tags and foreign ones match nothing."""
    tags = [tag.strip() for tag in if_match.split(",")][:10]
    numbers = [tag[1:-1] for tag in tags if len(tag) > 2 and tag[0] == tag[-1] == '"']
    return [int(n) for n in numbers if n.isascii() and n.isdigit() and len(n) <= 18]
