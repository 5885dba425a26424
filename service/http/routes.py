"""The HTTP routes."""

from __future__ import annotations

import asyncio
import codecs
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ..cache.cache import Cache
from ..cache.memory_cache import Entry
from ..errors import Unavailable
from ..health import Health, utc_timestamp
from ..metrics import Metrics
from ..postgres.campaigns import MAX_ID, Campaign, Campaigns, ValidationFailed, validate_change, validate_creation
from ..postgres.cleanup import Cleanup, CleanupRateLimited, denial_status, untrusted_reason
from .limits import MAX_BODY_BYTES, MAX_PAGE, PAGE
from .problems import Problem

if TYPE_CHECKING:
    from ..settings import ServiceSettings

Endpoint = Callable[[Request], Awaitable[Response]]

JSON_SUFFIX_TYPE = re.compile(r"[a-z]+/[a-z0-9.+-]+\+json")
ENTITY_TAG = re.compile(r'(W/)?"([^"]*)"')
ENTITY_TAG_LIST = re.compile(r'[ \t,]*(?:W/)?"[^"]*"(?:[ \t]*,[ \t,]*(?:W/)?"[^"]*")*[ \t,]*')
VERSION_NUMBER = re.compile(r"[1-9][0-9]{0,18}")
NO_STORE = {"Cache-Control": "no-store"}


class CampaignRoutes:
    """The routes of campaigns."""

    def __init__(self, campaigns: Campaigns, cache: Cache, *, body_timeout: float) -> None:
        self._body_timeout = body_timeout
        self._campaigns = campaigns
        self._cache = cache

    def routes(self) -> list[Route]:
        return [
            route("/api/campaigns", GET=self.list, POST=self.create),
            route("/api/campaigns/{id}", GET=self.get, PUT=self.update, DELETE=self.delete),
        ]

    async def create(self, request: Request) -> Response:
        campaign = await self._campaigns.create(validate_creation(await read_json(request, self._body_timeout)))
        entry = campaign.cache_entry()
        await self._cache.after_write(campaign.id, entry)
        return _entry_response(entry, status=201, headers={"Location": f"/api/campaigns/{campaign.id}"})

    async def get(self, request: Request) -> Response:
        campaign_id = campaign_id_of(request)

        async def load() -> Entry | None:
            campaign = await self._campaigns.get(campaign_id)
            return None if campaign is None else campaign.cache_entry()

        result = await self._cache.read(campaign_id, load)
        headers: dict[str, str] = {"X-Cache": result.state, "X-Cache-Source": result.source}
        if result.entry is None:
            raise HTTPException(404, "There is no such campaign.", headers)
        return _entry_response(result.entry, headers=headers)

    async def list(self, request: Request) -> Response:
        limit = _integer_parameter(request, "limit", default=PAGE, lowest=1, highest=MAX_PAGE)
        after = _integer_parameter(request, "after", default=0, lowest=0, highest=MAX_ID)
        items = await self._campaigns.list(after=after, limit=limit + 1)
        has_more = len(items) > limit
        page = items[:limit]
        return JSONResponse(
            {"items": [campaign.as_dict() for campaign in page], "next": page[-1].id if has_more else None}
        )

    async def update(self, request: Request) -> Response:
        campaign_id = campaign_id_of(request)
        fields = validate_change(await read_json(request, self._body_timeout))
        campaign = await self._update(campaign_id, fields, _if_match(request))
        entry = campaign.cache_entry()
        await self._cache.after_write(campaign_id, entry)
        return _entry_response(entry)

    async def delete(self, request: Request) -> Response:
        campaign_id = campaign_id_of(request)
        try:
            created = await self._campaigns.delete(campaign_id, allowed_versions(_if_match(request)))
            if created is None:
                await self._raise_not_updated(campaign_id)
        except Unavailable:
            self._cache.mark_uncertain(campaign_id)
            raise
        assert created is not None
        await self._cache.after_delete(campaign_id, created)
        return Response(status_code=204)

    async def _update(self, campaign_id: int, fields: dict[str, str], if_match: str | None) -> Campaign:
        try:
            campaign = await self._campaigns.update(campaign_id, fields, allowed_versions(if_match))
        except Unavailable:
            self._cache.mark_uncertain(campaign_id)
            raise
        if campaign is None:
            await self._raise_not_updated(campaign_id)
        assert campaign is not None
        return campaign

    async def _raise_not_updated(self, campaign_id: int) -> None:
        """Raise the error (404 or 412) of a change or deletion that matched no row."""
        if await self._campaigns.get(campaign_id) is None:
            raise HTTPException(404, "There is no such campaign.")
        raise HTTPException(412, "The campaign has another version by now.")


class ServiceRoutes:
    """The routes of health, metrics and cleanup."""

    def __init__(self, settings: ServiceSettings, health: Health, metrics: Metrics, cleanup: Cleanup) -> None:
        self._settings = settings
        self._health = health
        self._metrics = metrics
        self._cleanup = cleanup

    def routes(self) -> list[Route]:
        return [
            route("/health", GET=self.health),
            route("/livez", GET=self.live),
            route("/readyz", GET=self.ready),
            route("/metrics", GET=self.metrics),
            # HEAD would clean up without a report.
            route("/api/db-cleanup", head=False, GET=self.clean_up, POST=self.clean_up),
        ]

    async def health(self, request: Request) -> Response:
        return JSONResponse(self._health.health_body(), headers=NO_STORE)

    async def live(self, request: Request) -> Response:
        return JSONResponse({"status": "alive"}, headers=NO_STORE)

    async def ready(self, request: Request) -> Response:
        ready, content = self._health.readiness()
        headers = NO_STORE if ready else {**NO_STORE, "Retry-After": "1"}
        return JSONResponse(content, 200 if ready else 503, headers)

    async def metrics(self, request: Request) -> Response:
        content, media_type = self._metrics.render(",".join(request.headers.getlist("accept")))
        return Response(content, headers={**NO_STORE, "Content-Type": media_type})

    async def clean_up(self, request: Request) -> Response:
        peer = request.client.host if request.client else None
        untrusted = untrusted_reason(self._settings, request.headers)
        given = request.headers.getlist("authorization")
        status = denial_status(self._settings, peer, given[0] if len(given) == 1 else None, untrusted)
        if status is not None:
            headers = {**NO_STORE, "WWW-Authenticate": "Bearer"}
            why = f" ({untrusted})" if untrusted is not None and status == 403 else ""
            detail = f"This needs the cleanup token, or a caller on this machine{why}."
            return Problem(status, detail, headers=headers)
        try:
            result = await self._cleanup.run(min_interval=self._settings.cleanup_min_interval)
        except CleanupRateLimited as error:
            return Problem(429, "The last cleanup was too recent.", headers=NO_STORE, retry_after=error.retry_after)
        content: dict[str, object] = {
            "status": "success",
            "message": "Database pool cleanup triggered",
            "timestamp": utc_timestamp(),
        }
        if "verbose" in request.query_params:
            content |= asdict(result)
        return JSONResponse(content, headers=NO_STORE)


async def read_json(request: Request, seconds: float) -> object:
    """Return the parsed body.

    Args:
        request: its body is read.
        seconds: limit for the arrival of the whole body.

    Raises:
        HTTPException: the body is too large (413), late (408), of another type (415), or not JSON (400).
        ValidationFailed: an object has a name twice.
    """
    _check_content_type(request)
    too_large = HTTPException(413, f"The body may have {MAX_BODY_BYTES} bytes.")
    if announces_more(request, MAX_BODY_BYTES):
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise too_large
    except TimeoutError:
        raise HTTPException(408, "The body took too long.", {"Connection": "close"}) from None
    try:
        # The codec utf-8-sig does the same, but is imported at its first use.
        text = body.removeprefix(codecs.BOM_UTF8).decode()
        parsed: object = json.loads(text, object_pairs_hook=_unique_names)
    except ValidationFailed:
        raise
    except (ValueError, RecursionError):
        raise HTTPException(400, "The body is not JSON.") from None
    return parsed


def announces_more(request: Request, most: int) -> bool:
    """True if the body has more bytes than `most` by its Content-Length."""
    announced = request.headers.get("content-length", "")
    return announced.isdigit() and int(announced[:20]) > most


def _unique_names(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return the object. Refuse a duplicate name, because parsers disagree on the value that counts."""
    names: dict[str, object] = dict(pairs)
    if len(names) < len(pairs):
        raise ValidationFailed({"body": "must not give a name twice"})
    return names


def _check_content_type(request: Request) -> None:
    """Refuse a body of another declared type than JSON, because a page of another site can send one without permission."""
    content_types = request.headers.getlist("content-type")
    if not content_types:
        return
    media_type, _, parameters = content_types[0].partition(";")
    charset = re.fullmatch(r"\s*(?:charset\s*=\s*(\"?)utf-?8\1\s*;?\s*)?", parameters, re.IGNORECASE)
    kind = media_type.strip().lower()
    if (
        len(content_types) > 1
        or charset is None
        or not (kind == "application/json" or JSON_SUFFIX_TYPE.fullmatch(kind))
    ):
        raise HTTPException(415, "The body must be application/json in UTF-8.", {"Accept": "application/json"})


def route(path: str, *, head: bool = True, **endpoints: Endpoint) -> Route:
    """Return a route with an endpoint for each method. OPTIONS, and 405 for other methods, list the methods."""
    methods = [*(["HEAD"] if head and "GET" in endpoints else []), *endpoints, "OPTIONS"]
    allow = {"Allow": ", ".join(methods)}

    async def serve(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" and head else request.method
        if method == "OPTIONS":
            return Response(status_code=204, headers=allow)
        if method not in endpoints:
            raise HTTPException(405, "This path does not support the method.", allow)
        return await endpoints[method](request)

    return Route(path, _AnyMethodEndpoint(serve))


class _AnyMethodEndpoint:
    """An endpoint for all methods. Starlette restricts the methods of a route only if its endpoint is a function."""

    def __init__(self, serve: Endpoint) -> None:
        self._serve = serve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._serve(Request(scope, receive, send))
        await response(scope, receive, send)


def _entry_response(entry: Entry, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    headers = {**(headers or {}), "ETag": f'"{entry.stamp[1]}"'}
    return Response(entry.body, status, headers, media_type="application/json")


def campaign_id_of(request: Request) -> int:
    """Return the id of a campaign in the path.

    Raises:
        HTTPException: no campaign can have the id (404).
    """
    text = request.path_params["id"]
    if text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= MAX_ID:
        return int(text)
    raise HTTPException(404, "There is no such campaign.")


def _integer_parameter(request: Request, name: str, *, default: int, lowest: int, highest: int) -> int:
    given = request.query_params.getlist(name)
    if not given:
        return default
    text = given[0]
    if len(given) > 1:
        raise ValidationFailed({name: "must not be given twice"})
    if text.isascii() and text.isdigit() and len(text) <= 19 and lowest <= int(text) <= highest:
        return int(text)
    raise ValidationFailed({name: f"must be a whole number from {lowest} to {highest}"})


def _if_match(request: Request) -> str | None:
    """Return all lines of the header If-Match, joined. None if there is none."""
    lines = request.headers.getlist("if-match")
    return ", ".join(lines) if lines else None


def allowed_versions(if_match: str | None) -> list[int] | None:
    """Return the versions that an If-Match header allows, or None if it allows all.

    Tags are compared exactly, as RFC 9110 requires for If-Match. Weak tags, foreign tags and `"01"` match nothing. A header
    that is not a list of tags matches nothing either.
    """
    if if_match is None or if_match.strip() == "*":
        return None
    if not ENTITY_TAG_LIST.fullmatch(if_match):
        return []
    numbers = [tag for weak, tag in ENTITY_TAG.findall(if_match) if not weak and VERSION_NUMBER.fullmatch(tag)]
    return [number for number in map(int, numbers) if number <= MAX_ID]
