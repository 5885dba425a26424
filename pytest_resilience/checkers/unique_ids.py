"""The checker of unique ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..history import History
from ..operation import Operation, Verdict
from .checker import Checker


@dataclass(frozen=True)
class UniqueIds(Checker):
    """No id is acknowledged twice. The key of each ok create is an id.

    Cost: O(n). Unknown: no create with a key was acknowledged.
    Source: Jepsen's `checker/unique-ids`.
    """

    name: ClassVar[str] = "unique_ids"

    def judge(self, history: History) -> Verdict:
        first: dict[str, Operation] = {}
        for operation in history.operations:
            if operation.f != "create" or operation.type != "ok" or operation.key is None:
                continue
            if earlier := first.get(operation.key):
                return self.violated(
                    f"id {operation.key} was acknowledged twice: at {earlier.end:.3f} s and at {operation.end:.3f} s",
                    (earlier, operation),
                )
            first[operation.key] = operation
        return self.ok() if first else self.unknown("no create was acknowledged")


def unique_ids() -> UniqueIds:
    """Return the checker that no id is acknowledged twice."""
    return UniqueIds()
