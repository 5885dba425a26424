"""The HTTP routes. An order is stored before it is charged, and a pending one is charged again when it is read."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from checkout.payments import Payments, Status

TABLE = "create table if not exists orders (id bigserial primary key, cents int not null, status text not null)"


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Open the pools for the lifetime of the process."""
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=1, command_timeout=5) as database:
        await database.execute(TABLE)
        app.state.database, app.state.payments = database, Payments(os.environ["PAYMENTS_URL"])
        yield
        await app.state.payments.close()


async def create(request: Request) -> JSONResponse:
    """Store an order and charge it. 201 if it is paid, 402 if the card was declined, and 202 while that is unknown."""
    cents = int((await request.json())["cents"])
    insert = "insert into orders (cents, status) values ($1, $2) returning id"
    order = await request.app.state.database.fetchval(insert, cents, Status.PENDING)
    status = await _charge(request, order, cents)
    codes = {Status.PAID: 201, Status.DECLINED: 402, Status.PENDING: 202}
    return JSONResponse({"order": order, "status": status}, codes[status])


async def read(request: Request) -> JSONResponse:
    """Return the status of an order. A pending one is charged again under the same key."""
    order = int(request.path_params["order"])
    row = await request.app.state.database.fetchrow("select cents, status from orders where id = $1", order)
    if row is None:
        return JSONResponse({"error": "no such order"}, 404)
    status = Status(row["status"])
    if status is Status.PENDING:
        status = await _charge(request, order, row["cents"])
    return JSONResponse({"order": order, "status": status})


async def _charge(request: Request, order: int, cents: int) -> Status:
    status: Status = await request.app.state.payments.charge(order, cents)
    await request.app.state.database.execute("update orders set status = $2 where id = $1", order, status)
    return status


async def ready(request: Request) -> JSONResponse:
    """Report that the service can store orders, for which it does not need the payment API."""
    await request.app.state.database.execute("select 1")
    return JSONResponse({"status": "ready"})


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/orders", create, methods=["POST"]),
        Route("/orders/{order:int}", read),
        Route("/readyz", ready),
    ],
)
