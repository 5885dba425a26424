"""Generated tests as items of pytest: their run, what they report, and the files that replay what they found."""

from __future__ import annotations

import functools
import json
import os
import platform
import sys
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from . import options
from .report.run_reports import NEVER_HIT, RECOVERED, REPLAY, SCHEDULE
from .stash import RESILIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .generated.hypothesis_test import GeneratedTest
    from .generated.search import Finding, Search
    from .report.progress import Progress
    from .resilience import Resilience

FAILING_EXAMPLES = "_hypothesis_failing_examples"  # of an item, from which Hypothesis writes a patch that adds them


def is_generated(item: pytest.Item) -> bool:
    """True for a test with `@given` and the fixture `resilience`."""
    is_drawn = getattr(getattr(item, "obj", None), "is_hypothesis_test", False)
    return is_drawn and "resilience" in getattr(item, "fixturenames", ())


def strike_markers(item: pytest.Item) -> None:
    """Strike the faults of the markers of a test, those of its class and module first."""
    __tracebackhide__ = True
    for marker in reversed(list(item.iter_markers("fault"))):
        item.stash[RESILIENCE].strike(*marker.args, **marker.kwargs)


def run(item: pytest.Function) -> None:
    """Search, and raise the failure that was found. Under --resilience-replay, play the file.

    Raises:
        BaseException: the failure of the user's test.
    """
    __tracebackhide__ = True
    from .generated.hypothesis_test import GeneratedTest
    from .generated.search import Search
    from .profiles import profile_named
    from .replay import parse_replay_option

    given = options.options_of(item.config)
    resilience = item.stash[RESILIENCE]
    profile = profile_named(given.profile)
    resilience.default_clients = profile.clients
    if drawn_kinds := sys.modules.get(f"{__package__}.drawn_kinds"):  # else no strategy of the package is in use
        drawn_kinds.set_unsupported(resilience.unsupported)
    fixtures = {name: item.funcargs[name] for name in item._fixtureinfo.argnames}
    with _progress(item, resilience) as progress:
        search = Search(profile, known=_known_keys(item), listener=progress)
        is_parametrized = hasattr(item, "callspec")
        test = GeneratedTest(
            item.obj,
            item.nodeid,
            _seed(item),
            resilience,
            search,
            is_parametrized=is_parametrized,
            prepare=functools.partial(strike_markers, item),
        )
        finding = None
        try:
            if given.replay is None:
                finding = test.run(fixtures)
            else:
                _, plays = parse_replay_option(given.replay)
                finding = test.replay(fixtures, item.stash[REPLAYED], plays)
        finally:
            _add_properties(item, test, search, finding)
    if finding is not None:
        _report(item, search, finding)
        raise finding.error


def never_hit_property(fault: str, receipt: str) -> tuple[str, str]:
    """Return the property of a fault that makes a generated test vacuous."""
    return NEVER_HIT, json.dumps({"label": fault, "touched": 0, "receipt": receipt})


REPLAYED: pytest.StashKey[Mapping[str, Any]] = pytest.StashKey()  # of an item: the arguments that it replays


def _seed(item: pytest.Item) -> int | None:
    """Return the seed of the run, or None if the user has given one to Hypothesis."""
    if item.config.getoption("--hypothesis-seed", None) is not None:
        return None
    return options.options_of(item.config).seed


def _known_keys(item: pytest.Item) -> set[str]:
    """Return what identifies the arguments in the replay files of a test."""
    from .errors import ScheduleError
    from .generated.arguments import drawn_parameters, key_of
    from .replay import Replay
    from .report.artifacts import DIRECTORY

    found = set()
    for path in sorted((item.config.rootpath / DIRECTORY / "replays").glob("*.json")):
        try:
            replay = Replay.load(path)
            if replay.found.get("test") == item.nodeid:
                found.add(key_of(replay.arguments_for(drawn_parameters(item.obj))))  # type: ignore[attr-defined]
        except ScheduleError:
            continue  # of an older release, or of a test that has changed
    return found


@contextmanager
def _progress(item: pytest.Item, resilience: Resilience) -> Iterator[Progress | None]:
    """Show the progress on a terminal. Without one, and in a worker of xdist, show nothing."""
    reporter: Any = item.config.pluginmanager.getplugin("terminalreporter")
    if reporter is None or hasattr(item.config, "workerinput") or not reporter.isatty():
        yield None
        return
    from .report.progress import Progress

    reporter.ensure_newline()
    progress = Progress(
        functools.partial(reporter.rewrite, erase=True), lambda: sum(each.hit for each in resilience.tally.values())
    )
    try:
        yield progress
    finally:
        progress.end()


def _add_properties(item: pytest.Item, test: GeneratedTest, search: Search, finding: Finding | None) -> None:
    """Add the summary to the properties of the test, and remove what Hypothesis has collected for a patch."""
    from .generated.summary import properties

    if hasattr(item, FAILING_EXAMPLES):
        delattr(item, FAILING_EXAMPLES)
    seed, tally = options.options_of(item.config).seed, item.stash[RESILIENCE].tally
    item.user_properties += properties(search, finding, tally=tally, seed=seed)
    if test.recovered_after:
        item.user_properties.append((RECOVERED, f"{test.recovered_after:.3f}"))


def _report(item: pytest.Function, search: Search, finding: Finding) -> None:
    """Write the replay file and add the text of the failure to its error."""
    from .generated.arguments import digest_of
    from .generated.failures import HISTORY
    from .generated.summary import found_after, remarks
    from .report.failure import Found, explain

    arguments = finding.candidate.arguments
    digest = digest_of(arguments)
    item.user_properties.append((SCHEDULE, digest))
    facts = list(remarks(search, finding))
    command = None
    if options.options_of(item.config).replay is None:
        try:
            command = _save(item, digest, finding)
        except OSError as error:
            facts.append(f"the replay file could not be saved: {error}")
    found = Found(arguments, str(finding), tuple(facts), command, found_after(finding))
    history = getattr(finding.error, HISTORY, None)
    file = item.stash[RESILIENCE].write_history(history) if history is not None else None
    explain(finding.error, history, found, file=file)


def _save(item: pytest.Function, digest: str, finding: Finding) -> str | None:
    """Write the replay file, and return the command that plays it."""
    from importlib.metadata import version

    from .replay import replay_of
    from .report.artifacts import save_replay

    versions = {
        **{name: version(name) for name in ("pytest-resilience", "hypothesis")},
        "python": platform.python_version(),
    }
    found = {
        "test": item.nodeid,
        "seed": options.options_of(item.config).seed,
        "promise": str(finding.error).partition("\n")[0] or type(finding.error).__name__,
        "reproduced": f"{finding.reproduced} of {finding.plays}",
        "versions": versions,
    }
    replay = replay_of(finding.candidate.arguments, found)
    path = save_replay(item.config.rootpath, item.name, digest, replay.dumps())
    item.user_properties.append((REPLAY, path.relative_to(item.config.rootpath).as_posix()))
    if "lost" in replay.found:
        return None
    return f"pytest --resilience-replay {os.path.relpath(path, item.config.invocation_params.dir)}"
