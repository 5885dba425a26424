"""A shop small enough to read: products in Postgres, read through Redis. The pages of docs/ test it; start it with python -m shop."""

from __future__ import annotations

import contextlib
import os
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

# AttributeError: Python 3.12 and 3.13 up to 3.13.5 raise it for a write to a connection that was just reset (python/cpython#136234).
# reset() in docs/faults.md found that.
REDIS_AWAY = (redis.RedisError, OSError, AttributeError)
# InternalClientError: asyncpg has read the last words of a server that shuts down, and not yet the end of the stream.
POSTGRES_AWAY = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Open pools that outlive their servers. They connect when they are used, and every call has a time limit."""
    app.state.cache = redis.Redis.from_url(
        os.environ["REDIS_URL"], socket_timeout=0.25, socket_connect_timeout=0.25, retry=Retry(NoBackoff(), 0)
    )
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=0, timeout=2, command_timeout=2) as pool:
        app.state.pool = pool
        await pool.execute("CREATE TABLE IF NOT EXISTS products (id bigint PRIMARY KEY, name text NOT NULL)")
        yield
        await app.state.cache.aclose()


async def read(request: Request) -> JSONResponse:
    """A product out of Redis, or out of Postgres when Redis has none or is away."""
    number = request.path_params["number"]
    key = f"product:{number}"
    with contextlib.suppress(*REDIS_AWAY):
        if name := await request.app.state.cache.get(key):
            return JSONResponse({"name": name.decode()}, headers={"X-Source": "redis"})
    try:
        name = await request.app.state.pool.fetchval("SELECT name FROM products WHERE id = $1", number)
    except POSTGRES_AWAY:
        return JSONResponse({"title": "the database is away"}, 503, headers={"Retry-After": "1"})
    if name is None:
        return JSONResponse({"title": "no such product"}, 404)
    with contextlib.suppress(*REDIS_AWAY):
        await request.app.state.cache.set(key, name, ex=60)
    return JSONResponse({"name": name}, headers={"X-Source": "postgres"})


async def write(request: Request) -> JSONResponse:
    """Store a product, and delete its copy in Redis."""
    number = request.path_params["number"]
    try:
        await request.app.state.pool.execute(
            "INSERT INTO products VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET name = excluded.name",
            number,
            (await request.json())["name"],
        )
    except POSTGRES_AWAY:
        return JSONResponse({"title": "the database is away"}, 503, headers={"Retry-After": "1"})
    with contextlib.suppress(*REDIS_AWAY):
        await request.app.state.cache.delete(f"product:{number}")
    return JSONResponse({"id": number}, 201)


async def ready(request: Request) -> JSONResponse:
    """Return 200 if the shop can serve requests, which it can without Redis."""
    try:
        await request.app.state.pool.fetchval("SELECT 1")
    except POSTGRES_AWAY:
        return JSONResponse({"ready": False}, 503)
    return JSONResponse({"ready": True})


app = Starlette(
    routes=[
        Route("/readyz", ready),
        Route("/products/{number:int}", read),
        Route("/products/{number:int}", write, methods=["PUT"]),
    ],
    lifespan=lifespan,
)

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")
