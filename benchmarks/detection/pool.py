"""A small pool of connections to Redis, correct or with the bug that a cancelled caller keeps its slot."""

from __future__ import annotations

import asyncio
import os
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

SIZE = 3
BUG = os.environ.get("BUG") == "slot"


class Pool:
    """A pool of at most three connections, each used by one command at a time."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = {"host": parts.hostname, "port": parts.port}
        self._slots = asyncio.Semaphore(SIZE)
        self._idle: list[Connection] = []

    async def get(self, key: str) -> Any:
        return await self._call("GET", key)

    async def set(self, key: str, value: str) -> Any:
        return await self._call("SET", key, value)

    async def delete(self, key: str) -> Any:
        return await self._call("DEL", key)

    async def aclose(self) -> None:
        while self._idle:
            await self._idle.pop().disconnect()

    async def _call(self, *command: str) -> Any:
        async with asyncio.timeout(1.0):
            await self._slots.acquire()
        connection = self._idle.pop() if self._idle else self._connect()
        try:
            async with asyncio.timeout(1.0):
                await connection.send_command(*command)
                answer = await connection.read_response()
        except BaseException as error:
            await connection.disconnect(nowait=True)
            if not (BUG and isinstance(error, asyncio.CancelledError)):
                self._slots.release()
            raise
        self._idle.append(connection)
        self._slots.release()
        return answer

    def _connect(self) -> Connection:
        return Connection(**self._address, decode_responses=True, protocol=2, retry=Retry(NoBackoff(), 0))
