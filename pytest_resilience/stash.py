"""What hooks and fixtures hand each other by way of pytest's stashes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .leaks.check import LeakCheck
    from .resilience import Resilience

RESILIENCE: pytest.StashKey[Resilience] = pytest.StashKey()  # of an item: the experiment of its test
PASSED: pytest.StashKey[bool] = pytest.StashKey()  # of an item with an experiment: whether its body passed
LEAK_CHECK: pytest.StashKey[LeakCheck] = pytest.StashKey()  # of an item whose body has begun: what there was then
ATTEMPTS: pytest.StashKey[int] = pytest.StashKey()  # of an item: how often its setup has begun
FAILED_ATTEMPT_NUMBERS: pytest.StashKey[set[int]] = pytest.StashKey()  # of an item: which of its attempts have failed
DESCRIBED: pytest.StashKey[bool] = pytest.StashKey()  # of a run: there if its terminal has said what it uses
WORKER_DESCRIPTION: pytest.StashKey[str] = pytest.StashKey()  # of xdist's controller: what its workers have used
