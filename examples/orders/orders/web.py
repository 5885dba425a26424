"""The web process: python -m orders.web --port PORT, with DATABASE_URL and REDIS_URL."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import AsyncIterator

import asyncpg
import redis.asyncio as redis
import uvicorn
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Open the pools."""
    app.state.redis = redis.Redis.from_url(
        os.environ["REDIS_URL"], socket_timeout=0.25, socket_connect_timeout=0.25, retry=Retry(NoBackoff(), 0)
    )
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=0, timeout=2, command_timeout=2) as pool:
        app.state.postgres = pool
        yield
        await app.state.redis.aclose()


async def place(request: Request) -> JSONResponse:
    """Store an order, and wake the worker. Without Redis, the worker finds the order at its next look at the table."""
    item = (await request.json())["item"]
    number = await request.app.state.postgres.fetchval("INSERT INTO orders (item) VALUES ($1) RETURNING id", item)
    with contextlib.suppress(redis.RedisError, OSError):
        await request.app.state.redis.rpush("wake-ups", number)
    return JSONResponse({"id": number}, 201)


async def read(request: Request) -> JSONResponse:
    """Return an order with the number of its parcels."""
    row = await request.app.state.postgres.fetchrow(
        "SELECT item, (SELECT count(*) FROM parcels WHERE order_id = id) AS parcels FROM orders WHERE id = $1",
        request.path_params["number"],
    )
    return JSONResponse(dict(row)) if row is not None else JSONResponse({"title": "no such order"}, 404)


async def ready(request: Request) -> JSONResponse:
    """Answer 200 if the tables can be read."""
    await request.app.state.postgres.fetch("SELECT 1 FROM orders LIMIT 1")
    return JSONResponse({"status": "ready"})


app = Starlette(
    routes=[
        Route("/orders", place, methods=["POST"]),
        Route("/orders/{number:int}", read),
        Route("/readyz", ready),
    ],
    lifespan=lifespan,
)

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[sys.argv.index("--port") + 1]), log_level="warning")
