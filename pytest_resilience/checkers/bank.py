"""The checker of transfers between accounts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import isclose
from typing import Any, ClassVar

from ..history import History
from ..operation import Operation, Verdict
from .checker import Checker
from .numbers import TOLERANCE, number

Number = int | float


@dataclass(frozen=True)
class Bank(Checker):
    """Transfers between accounts neither create nor destroy money.

    Each ok read or list with a mapping from account to balance has exactly the expected accounts, no balance None or below 0,
    and the total as their sum. Other operations do not count.

    Cost: O(reads times accounts). Unknown: no such read succeeded.
    Source: Jepsen's `tests/bank`.

    Args:
        total: the sum of all balances.
        accounts: the names of the accounts; None for those of the first read.
    """

    name: ClassVar[str] = "bank"
    total: Number
    accounts: tuple[str, ...] | None = None

    def judge(self, history: History) -> Verdict:
        reads = [each for each in history.operations if _is_read(each)]
        if not reads:
            return self.unknown("no read of all balances succeeded")
        expected = frozenset(reads[0].value if self.accounts is None else self.accounts)
        for read in reads:
            if not self._is_right(read.value, expected) and (problem := self._problem(read.value, expected)):
                why = f"the read of all balances from {read.time:.3f} s to {read.end:.3f} s {problem}"
                first = [reads[0]] if self.accounts is None and problem.startswith("has") else []
                return self.violated(why, [*first, read])
        return self.ok()

    def _is_right(self, balances: Mapping[str, Any], expected: Collection[str]) -> bool:
        """True if plain integers are right. The common case, and the fast one."""
        try:
            return sum(balances.values()) == self.total and min(balances.values()) >= 0 and balances.keys() == expected
        except (TypeError, ValueError):
            return False

    def _problem(self, balances: Mapping[str, Any], expected: frozenset[str]) -> str:
        """Return the way in which balances are wrong, or "" if they are not."""
        if balances.keys() != expected:
            return (
                f"has the accounts {', '.join(map(str, balances))} in place of {', '.join(sorted(map(str, expected)))}"
            )
        amounts = {account: number(balance) for account, balance in balances.items()}
        for account, amount in amounts.items():
            if amount is None:
                return f"shows {balances[account]!r} as the balance of account {account}"
            if amount < 0:
                return f"shows {amount} as the balance of account {account}"
        total = sum(amount for amount in amounts.values() if amount is not None)
        right = isclose(total, self.total, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
        return "" if right else f"adds up to {total} in place of {self.total}"


def _is_read(operation: Operation) -> bool:
    return operation.type == "ok" and operation.f in ("read", "list") and isinstance(operation.value, Mapping)


def bank(total: Number, *, accounts: Collection[str] | None = None) -> Bank:
    """Return the checker that all balances add up to a total in every read.

    Args:
        total: the sum of all balances.
        accounts: the names of the accounts; None for those of the first read.
    """
    return Bank(total, None if accounts is None else tuple(accounts))
