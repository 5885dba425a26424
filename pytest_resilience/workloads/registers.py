"""Registers: the workload of asynchronous clients of a database, in the process of the test."""

from __future__ import annotations

import asyncio
import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import SetupError
from ..history import Client, Invocation
from .pattern import GROUP, pattern, slot

CONDITIONAL = 2  # the position in a group of the operation that is conditional, if it is an update


class NotSent(Exception):
    """An operation ended before anything was sent, so it has not happened."""


class Rejected(Exception):
    """The server has refused an operation, so it has not happened. The message is a status such as "412"."""


def wrong_client(takes: str, made: object) -> SetupError:
    """Return the error for a client that a workload can't use.

    Args:
        takes: the workload and the function that it takes.
        made: what the function has returned.
    """
    kind = f"{type(made).__module__}.{type(made).__name__}"
    return SetupError(f"{takes}; this one returned an object of {kind}. A workload of your own takes any client")


class Registers(ABC):
    """Clients that read and write a few keys of a database.

    Args:
        kinds: the kinds of operation.
        known: the kinds that there are.
        full: the kinds of consecutive operations.
        keys: the number of keys that clients share.
        timeout: seconds for each operation.
    """

    def __init__(
        self, kinds: Sequence[str], *, known: Sequence[str], full: Sequence[str], keys: int, timeout: float
    ) -> None:
        name = type(self).__name__
        if not kinds or [kind for kind in kinds if kind not in known]:
            raise SetupError(f"{name}(kinds=...) takes some of {', '.join(known)}, got {kinds!r}")
        if keys < 1:
            raise SetupError(f"{name}(keys=...) is a number of 1 or more, got {keys!r}")
        if not timeout > 0:
            raise SetupError(f"{name}(timeout=...) is seconds above 0, got {timeout!r}")
        self.kinds = tuple(kinds)
        self._pattern = pattern(self.kinds, full)
        self._keys = keys
        self._timeout = timeout
        self._texts = itertools.count(1)

    def kind(self, n: int) -> str:
        """Return the kind of operation `n`."""
        return self._pattern[n % len(self._pattern)]

    @property
    def _all_keys(self) -> list[str]:
        """The keys that clients share, and the one of the client that works alone."""
        return [str(number) for number in range(self._keys + 1)]

    async def perform(self, client: Client, kind: str, n: int) -> None:
        """Perform and record one operation."""
        # In the phases without faults, a client of its own replaces nothing that the others have written.
        key = str(slot(n, self._keys) if client.history.phase == "run" else self._keys)
        value = self._value(client, kind)
        expected = self._expected(key) if kind == "update" and n % GROUP == CONDITIONAL else None
        await self._record(client, kind, None if kind == "list" else key, value, expected)

    def _value(self, client: Client, kind: str) -> Any:
        """Return the value that an operation writes, or None for one that writes none."""
        return f"w{client.process}.{next(self._texts)}" if kind == "update" else None

    def _expected(self, key: str) -> int | None:
        """Return the version of a key that a conditional update requires, or None where there are no versions."""
        return None

    async def read_all(self, client: Client) -> None:
        """Read every key."""
        if "read" in self.kinds:
            for key in self._all_keys:
                await self._record(client, "read", key, None, None)

    async def _record(self, client: Client, kind: str, key: str | None, value: Any, expected: int | None) -> None:
        invocation = client.invoke(kind, key=key, value=value, expected=expected)
        try:
            async with asyncio.timeout(self._timeout):
                seen = await self._execute(client, kind, key, value, expected)
        except asyncio.CancelledError as error:
            self._unknown(invocation, kind, error)
            raise
        except (NotSent, Rejected) as error:
            invocation.fail(error.__cause__ or error)
        except Exception as error:  # noqa: BLE001  # every error of a driver is an outcome
            if self._has_not_happened(error):
                invocation.fail(error)
            else:
                self._unknown(invocation, kind, error)
        else:
            invocation.ok(**seen)

    def _unknown(self, invocation: Invocation, kind: str, error: BaseException) -> None:
        """Record an operation without an answer. A write may have happened, and a read has failed."""
        if kind in ("read", "list"):
            invocation.fail(error)
        else:
            invocation.info(error)

    @abstractmethod
    async def _execute(
        self, client: Client, kind: str, key: str | None, value: Any, expected: int | None
    ) -> Mapping[str, Any]:
        """Perform one operation. Return what the answer has shown, as `Invocation.ok` takes it.

        Raises:
            NotSent: it ended before anything was sent; with the cause.
            Rejected: the server has refused it.
        """

    @abstractmethod
    def _has_not_happened(self, error: Exception) -> bool:
        """True if an operation that raised this error is known to have had no effect."""
