"""The protocol of these programs.

A line with the name of a scenario comes in, and a line of JSON with what the driver made of it goes out.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Coroutine
from importlib.metadata import version
from typing import Any

TIMEOUT = 1.0  # seconds; of the client, where its driver has one
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
