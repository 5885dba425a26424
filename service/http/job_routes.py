"""The HTTP routes of jobs."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..jobs.job import Job, JobState, Queue
from ..postgres.campaigns import Campaigns
from .routes import NO_STORE, campaign_id_of, route


class JobRoutes:
    """The routes that send a campaign, and show and retry a job."""

    def __init__(self, campaigns: Campaigns, queue: Queue) -> None:
        self._campaigns = campaigns
        self._queue = queue

    def routes(self) -> list[Route]:
        return [
            route("/api/campaigns/{id}/send", POST=self.send),
            route("/api/jobs/{id}", GET=self.get),
            route("/api/jobs/{id}/retry", POST=self.retry),
        ]

    async def send(self, request: Request) -> Response:
        campaign_id = campaign_id_of(request)
        if await self._campaigns.get(campaign_id) is None:
            raise HTTPException(404, "There is no such campaign.")
        job = Job(campaign_id)
        durable = await self._queue.enqueue(job)
        return _accepted(job, durable=durable)

    async def get(self, request: Request) -> Response:
        state = await self._state(request)
        content = {
            "id": state.job.id,
            "campaign_id": state.job.campaign_id,
            "status": state.status,
            "attempts": state.attempts,
            "sent": state.sent,
            "total": state.total,
            "error": state.error,
        }
        return JSONResponse(content, headers=NO_STORE)

    async def retry(self, request: Request) -> Response:
        state = await self._state(request)
        if state.status != "failed" or not await self._queue.retry(state.job.id):
            raise HTTPException(409, f"The job is not in the dead-letter queue: it is {state.status}.")
        return _accepted(state.job, durable=True)

    async def _state(self, request: Request) -> JobState:
        state = await self._queue.state(request.path_params["id"])
        if state is None:
            raise HTTPException(404, "There is no such job.")
        return state


def _accepted(job: Job, *, durable: bool) -> Response:
    return JSONResponse({"job_id": job.id, "durable": durable}, 202, {"Location": f"/api/jobs/{job.id}"})
