"""The protocol of these programs.

A line with the name of a scenario comes in, and a line of JSON with what the driver made of it goes out.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Awaitable, Callable, Coroutine
from importlib.metadata import version
from typing import Any

TIMEOUT = 1.0  # seconds; of the client, where its driver has one
INSERT, READ, NEXT = "INSERT INTO acts VALUES (1)", "SELECT n FROM generate_series(1, 5) AS n", "SELECT 1"
Error = dict[str, str]
Answer = dict[str, Any]
Code = Callable[[Exception], "str | None"]


def describe(error: Exception, code: str | None = None) -> Error:
    """Return the class of an error, the code of the server and the text."""
    return {"kind": type(error).__name__, "code": code or "", "text": str(error)}


class Attempts:
    """Calls of a driver, and what it raised.

    Args:
        code: returns the code of the server in an error.
    """

    def __init__(self, code: Code) -> None:
        self._code = code

    def call(self, action: Callable[..., Any], *arguments: Any) -> Error | None:
        """Call, and return the error."""
        try:
            action(*arguments)
        except Exception as error:  # noqa: BLE001  # any error of a driver is a result
            return describe(error, self._code(error))
        return None

    async def wait(self, action: Callable[..., Awaitable[Any]], *arguments: Any) -> Error | None:
        """Call and await, and return the error."""
        try:
            await action(*arguments)
        except Exception as error:  # noqa: BLE001  # any error of a driver is a result
            return describe(error, self._code(error))
        return None


def play_on(connection: Any, scenario: str, attempts: Attempts, execute: Callable[[str], object]) -> Answer:
    """Play a scenario other than "connect" on a connection of the DB-API, and end its transaction.

    Args:
        connection: the connection.
        scenario: as the program got it.
        attempts: records what is raised.
        execute: executes a statement on the connection.
    """
    connection.autocommit = scenario in {"alone", "read"}
    raised = attempts.call(execute, READ if scenario == "read" else INSERT)
    if scenario == "commit":
        raised = attempts.call(connection.commit)
    after = attempts.call(execute, NEXT)
    with contextlib.suppress(Exception):
        connection.rollback() if raised else connection.commit()
    return {"raised": raised, "next": after}


def no_code(error: Exception) -> None:
    """Return None, because the code is in the text of the error."""


def serve(package: str, play: Callable[[str], Answer]) -> None:
    """Answer each line until the end of the input.

    Args:
        package: the driver, for the answer to "version".
        play: plays a scenario.
    """
    for line in sys.stdin:
        scenario = line.strip()
        print(json.dumps(describe_version(package) if scenario == "version" else play(scenario)), flush=True)


def describe_version(package: str) -> Answer:
    return {"version": f"{package} {version(package)}"}


def serve_async(package: str, play: Callable[[str], Coroutine[Any, Any, Answer]]) -> None:
    """Answer as `serve` does, with an event loop for each scenario."""
    serve(package, lambda scenario: asyncio.run(play(scenario)))
