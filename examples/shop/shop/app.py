"""The HTTP routes, with the source of each product, and 503 while Postgres is down."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from shop.cache import Cache
from shop.database import Database, DatabaseAway


class Label(BaseModel):
    """The name of a product."""

    name: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the pools for the lifetime of the process."""
    app.state.database, app.state.cache = Database(os.environ["DATABASE_URL"]), Cache(os.environ["REDIS_URL"])
    await app.state.database.create_tables()
    yield
    await app.state.cache.close()
    await app.state.database.close()


app = FastAPI(lifespan=lifespan)


@app.exception_handler(DatabaseAway)
async def database_away(request: Request, error: DatabaseAway) -> JSONResponse:
    """Answer 503 with Retry-After, because a later attempt may succeed."""
    return JSONResponse({"detail": "the database is unavailable"}, 503, headers={"Retry-After": "1"})


@app.get("/products/{number}")
async def read(number: int, request: Request, response: Response) -> Label:
    """Return a product from Redis, or from Postgres if Redis has none or is down. X-Source names the source."""
    cache: Cache = request.app.state.cache
    name = await cache.get(number)
    response.headers["X-Source"] = "redis" if name is not None else "postgres"
    if name is None:
        name = await request.app.state.database.name_of(number)
        if name is None:
            raise HTTPException(404, "no such product")
        await cache.put(number, name)
    return Label(name=name)


@app.put("/products/{number}", status_code=201)
async def store(number: int, label: Label, request: Request) -> Label:
    """Store a product and delete its copy in Redis."""
    await request.app.state.database.store(number, label.name)
    await request.app.state.cache.forget(number)
    return label


@app.get("/health")
async def health() -> dict[str, str]:
    """Report that the process is alive. No server is queried, so an orchestrator does not kill it in an outage."""
    return {"status": "alive"}


@app.get("/readyz")
async def ready(request: Request) -> dict[str, str]:
    """Report that the shop can serve, for which it does not need Redis."""
    await request.app.state.database.ping()
    return {"status": "ready"}
