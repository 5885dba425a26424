"""The client of the payment API. It charges an order once, and never takes a strange answer for a payment."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Any

import httpx

DEADLINE = 1.0  # seconds for all attempts to charge an order
ATTEMPT = 0.4  # seconds for one of them
PAUSE = 0.05  # seconds between two attempts


class Status(StrEnum):
    """The status of an order. A pending one may have been charged, so it is asked about and never charged under another key."""

    PENDING = "pending"
    PAID = "paid"
    DECLINED = "declined"


class Payments:
    """The payment API.

    Args:
        url: its base URL.
    """

    def __init__(self, url: str) -> None:
        self._client = httpx.AsyncClient(base_url=url, timeout=ATTEMPT, trust_env=False)

    async def charge(self, order: int, cents: int) -> Status:
        """Charge an order, with the same idempotency key in each attempt.

        Args:
            order: the number of the order.
            cents: the amount.

        Returns:
            PAID or DECLINED if the API has said so about this order and amount, and PENDING after the deadline.
        """
        try:
            async with asyncio.timeout(DEADLINE):
                while True:
                    status = await self._attempt(order, cents)
                    if status is not Status.PENDING:
                        return status
                    await asyncio.sleep(PAUSE)
        except TimeoutError:
            return Status.PENDING

    async def _attempt(self, order: int, cents: int) -> Status:
        body, key = {"order": order, "cents": cents}, {"Idempotency-Key": f"order-{order}"}
        try:
            reply = await self._client.post("/charges", json=body, headers=key)
        except httpx.HTTPError:
            return Status.PENDING
        if reply.status_code == 402:
            return Status.DECLINED
        return Status.PAID if reply.status_code == 201 and is_charge(reply, order, cents) else Status.PENDING

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def is_charge(reply: httpx.Response, order: int, cents: int) -> bool:
    """True if an answer confirms the charge of this order and this amount."""
    try:
        charge: Any = reply.json()
    except ValueError:
        return False
    confirmed = {"order": order, "cents": cents, "paid": True}
    return isinstance(charge, dict) and {name: charge.get(name) for name in confirmed} == confirmed
