"""Generated tests as items of pytest."""

from __future__ import annotations

from typing import Any

import pytest

from . import options
from .generated.hypothesis_test import GeneratedTest
from .generated.search import Search
from .profiles import profile_named
from .stash import RESILIENCE

FAILING_EXAMPLES = "_hypothesis_failing_examples"  # of an item, from which Hypothesis writes a patch that adds them


def run(item: pytest.Function) -> None:
    """Search, and raise the failure that was found.

    Raises:
        BaseException: the failure of the user's test.
    """
    __tracebackhide__ = True
    given = options.options_of(item.config)
    resilience: Any = item.stash[RESILIENCE]
    profile = profile_named(given.profile)
    resilience.default_clients = profile.clients
    search = Search(profile)
    run_seed = given.seed if item.config.getoption("--hypothesis-seed", None) is None else None
    test = GeneratedTest(item.obj, item.nodeid, run_seed, resilience, search)
    arguments = {name: item.funcargs[name] for name in item._fixtureinfo.argnames}
    try:
        finding = test.run(arguments)
    finally:
        if hasattr(item, FAILING_EXAMPLES):
            delattr(item, FAILING_EXAMPLES)
    if finding is not None:
        finding.error.add_note(str(finding))
        raise finding.error
