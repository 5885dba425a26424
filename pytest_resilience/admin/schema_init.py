"""The schema of a server, which is made once, before the baseline is taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from ..errors import SetupError
from ..redaction import scrubbed

MAX_SHOWN_CHARS = 60  # of the SQL that has failed

Step: TypeAlias = "str | Path | Callable[[str], object]"
Init: TypeAlias = "Step | Sequence[Step]"


def make_schema(init: Init, url: str, execute: Callable[[str], None], error: type[Exception]) -> None:
    """Make the schema.

    Args:
        init: SQL, a file with SQL, or a function that gets the server's URL; one or several.
        url: of the server without the proxy.
        execute: runs SQL.
        error: what `execute` raises if the server refuses the SQL.

    Raises:
        SetupError: the SQL failed.
    """
    for step in [init] if isinstance(init, str | Path) or callable(init) else list(init):
        if callable(step):
            step(url)
            continue
        try:
            execute(step.read_text(encoding="utf-8") if isinstance(step, Path) else step)
        except error as problem:
            where = scrubbed(str(step).splitlines()[0])[:MAX_SHOWN_CHARS]
            raise SetupError(f"the schema could not be created: {where!r}: {problem}") from None
