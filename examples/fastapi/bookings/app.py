"""The HTTP routes. A client that got no answer repeats its request with the same key, which books one seat at most."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from bookings import database
from bookings.cache import Cache
from bookings.database import Database
from bookings.models import Booking, Event


class Seats(BaseModel):
    """The free seats of an event."""

    free: int


class Order(BaseModel):
    """The event to book."""

    event: int


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the pools for the lifetime of the process."""
    app.state.database, app.state.cache = Database(os.environ["DATABASE_URL"]), Cache(os.environ["REDIS_URL"])
    yield
    await app.state.cache.close()
    await app.state.database.engine.dispose()


app = FastAPI(lifespan=lifespan)


async def unavailable(request: Request, error: Exception) -> JSONResponse:
    """Answer 503, because Postgres is away or busy and a later attempt may succeed."""
    if isinstance(error, database.MISTAKES):
        raise error
    detail = f"the database is unavailable: {type(error).__name__}"
    return JSONResponse({"detail": detail}, 503, headers={"Retry-After": "1"})


for each in database.AWAY:
    app.add_exception_handler(each, unavailable)


@app.put("/events/{number}", status_code=201)
async def store(number: int, seats: Seats, request: Request) -> Seats:
    """Store an event."""

    async def work(session: AsyncSession) -> None:
        await session.merge(Event(number=number, free=seats.free))

    await request.app.state.database.transaction(work)
    return seats


@app.get("/events/{number}")
async def read(number: int, request: Request) -> Seats:
    """Return the free seats, which may be some seconds old."""
    free = await request.app.state.cache.get(number)
    if free is None:
        event = await request.app.state.database.transaction(lambda session: session.get(Event, number))
        if event is None:
            raise HTTPException(404, "no such event")
        free = event.free
        await request.app.state.cache.put(number, free)
    return Seats(free=free)


@app.put("/bookings/{key}", status_code=201)
async def book(key: uuid.UUID, order: Order, request: Request) -> Order:
    """Book a seat, unless this key has booked it before. 409 if the event is sold out."""

    async def work(session: AsyncSession) -> None:
        if await session.get(Booking, key) is not None:
            return
        event = await session.get(Event, order.event)
        if event is None or event.free == 0:
            raise HTTPException(409, "sold out")
        event.free -= 1
        session.add(Booking(key=key, event=order.event))

    await request.app.state.database.transaction(work)
    return order


@app.get("/health")
async def health() -> dict[str, str]:
    """Report that the process is alive. No server is queried, so an orchestrator does not kill it in an outage."""
    return {"status": "alive"}


@app.get("/readyz")
async def ready(request: Request) -> dict[str, str]:
    """Report that the service can book, for which it does not need Redis."""
    await request.app.state.database.transaction(lambda session: session.execute(text("select 1")))
    return {"status": "ready"}
