"""The routes of cadences."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..jobs.scheduler import CadenceScheduler
from ..postgres.cadences import Cadences, validate_cadence
from .routes import campaign_id_of, read_json, route


class CadenceRoutes:
    """The routes of cadences.

    Args:
        cadences: the table.
        scheduler: is informed of each new cadence, so that a short first period is exact.
        body_timeout: seconds for the arrival of a body.
    """

    def __init__(self, cadences: Cadences, scheduler: CadenceScheduler, *, body_timeout: float) -> None:
        self._cadences = cadences
        self._scheduler = scheduler
        self._body_timeout = body_timeout

    def routes(self) -> list[Route]:
        return [route("/api/campaigns/{id}/cadence", GET=self.get, PUT=self.put, DELETE=self.delete)]

    async def put(self, request: Request) -> Response:
        campaign_id = campaign_id_of(request)
        cadence = validate_cadence(await read_json(request, self._body_timeout))
        if not await self._cadences.put(campaign_id, cadence):
            raise HTTPException(404, "There is no such campaign.")
        self._scheduler.plan(cadence.every_seconds)
        return JSONResponse(cadence.as_dict())

    async def get(self, request: Request) -> Response:
        cadence = await self._cadences.get(campaign_id_of(request))
        if cadence is None:
            raise HTTPException(404, "The campaign has no cadence.")
        return JSONResponse(cadence.as_dict())

    async def delete(self, request: Request) -> Response:
        if not await self._cadences.delete(campaign_id_of(request)):
            raise HTTPException(404, "The campaign has no cadence.")
        return Response(status_code=204)
