"""The HTTP side: what is asked, where the answer came from, and 503 when Postgres is away."""

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
    """What a product is called."""

    name: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Pools for as long as the process lives."""
    app.state.database, app.state.cache = Database(os.environ["DATABASE_URL"]), Cache(os.environ["REDIS_URL"])
    await app.state.database.create_tables()
    yield
    await app.state.cache.close()
    await app.state.database.close()


app = FastAPI(lifespan=lifespan)


@app.exception_handler(DatabaseAway)
async def database_away(request: Request, error: DatabaseAway) -> JSONResponse:
    """Not the caller's fault, and worth another try."""
    return JSONResponse({"detail": "the database is away"}, 503, headers={"Retry-After": "1"})


@app.get("/products/{number}")
async def read(number: int, request: Request, response: Response) -> Label:
    """A product out of Redis, or out of Postgres when Redis has none or is away; X-Source says which."""
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
    """Store a product; what Redis knows of it is forgotten."""
    await request.app.state.database.store(number, label.name)
    await request.app.state.cache.forget(number)
    return label


@app.get("/health")
async def health() -> dict[str, str]:
    """Whether the process lives; asks nobody else, so that no outage makes an orchestrator kill it."""
    return {"status": "alive"}


@app.get("/readyz")
async def ready(request: Request) -> dict[str, str]:
    """Whether it can serve, which it can without Redis."""
    await request.app.state.database.ping()
    return {"status": "ready"}
