"""The keys of pytest's stashes, by which hooks and fixtures share their state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

    from .described_services import ServiceFactory, SystemFactory
    from .leaks.check import LeakCheck
    from .resilience import Resilience

RESILIENCE: pytest.StashKey[Resilience] = pytest.StashKey()  # of an item: the value of its fixture
PASSED: pytest.StashKey[bool] = pytest.StashKey()  # of an item with the fixture: True if its body passed
RECORDED: pytest.StashKey[bool] = pytest.StashKey()  # of an item: present if its properties have its strikes
LEAK_CHECK: pytest.StashKey[LeakCheck] = pytest.StashKey()  # of an item with a body that has begun: its check for leaks
ATTEMPTS: pytest.StashKey[int] = pytest.StashKey()  # of an item: the number of its attempts so far
FAILED_ATTEMPT_NUMBERS: pytest.StashKey[set[int]] = pytest.StashKey()  # of an item: the numbers of its failed attempts
HISTORY_LOST: pytest.StashKey[bool] = (
    pytest.StashKey()
)  # of a run: present if it has warned that a history can't be written
DESCRIBED: pytest.StashKey[bool] = pytest.StashKey()  # of a run: present if the terminal has shown backend and seed
WORKER_DESCRIPTION: pytest.StashKey[str] = (
    pytest.StashKey()
)  # of xdist's controller: the backend and seed of its workers
FACTORIES: pytest.StashKey[dict[ModuleType, dict[str, ServiceFactory | SystemFactory]]] = (
    pytest.StashKey()
)  # of a run: the services and systems that the fixtures of a module describe
