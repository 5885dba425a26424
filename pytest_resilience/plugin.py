"""pytest's hooks, a few lines each; imports nothing heavy."""

from __future__ import annotations

import functools
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from . import options
from .fixtures import resilience, resilience_schema, resilience_service, resilience_stack  # noqa: F401  # pytest finds them here
from .stash import EXPERIMENT, PASSED, WATCH

if TYPE_CHECKING:
    from .experiment import Resilience

VACUOUS = "resilience_outcome"
STRIKE = "resilience_strike"
CANNOT = "resilience_cannot"
LEAK = "resilience_leak"
LOG_LINES = 60  # of the service's log, below a failure


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    options.add(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers and read the options, so that a wrong one ends the run before it begins."""
    config.addinivalue_line(
        "markers", 'fault(name, **settings): strike before the test, heal after it; such as fault("redis.refuse")'
    )
    config.addinivalue_line(
        "markers",
        'leaks(*names): what the test may leave behind; patterns such as leaks("thread:watcher-*", "postgres:shop")',
    )
    given = options.keep(config)
    if given.backend == "external":
        from .errors import BackendUnavailable

        try:
            given.choose()
        except BackendUnavailable as error:
            raise pytest.UsageError(f"--resilience-backend=external: {error}") from None


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the hooks that others may implement."""
    from . import hooks

    pluginmanager.add_hookspecs(hooks)


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """--resilience-backends: print the table, run nothing."""
    if not config.getoption("resilience_backends"):
        return None
    from .backends.choice import table

    given = options.keep(config)
    sys.stdout.write("\n".join(table(given.settings, given.others)) + "\n")
    return 0


def pytest_report_header(config: pytest.Config) -> str:
    """Backend and why, versions, seed."""
    given = options.read(config)
    return f"resilience: {options.choice(config).describe()}, seed {given.seed}"


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """xdist: the controller's seed for every worker."""
    node.workerinput["resilience_seed"] = options.read(node.config).seed


def pytest_itemcollected(item: pytest.Item) -> None:
    """A test with a fault marker has the fixture too, typed or not; a leaks marker says what may stay."""
    for marker in item.iter_markers("leaks"):
        from .errors import SetupError
        from .leaks.compare import check_patterns

        try:
            check_patterns(marker.args, marker.kwargs)
        except SetupError as error:
            raise pytest.UsageError(f"{item.nodeid}: {error}") from None
    names = getattr(item, "fixturenames", None)
    if names is not None and "resilience" not in names and item.get_closest_marker("fault") is not None:
        names.append("resilience")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    """Look around, and strike what markers name, after all fixtures are there."""
    __tracebackhide__ = True
    if "resilience" in getattr(item, "fixturenames", ()):
        # pytest calls this after the item's own fixtures are gone, and before those of its module and session are.
        setattr(item, "teardown", functools.partial(_tear_down, item))  # noqa: B010  # no assignment to a method, says mypy
    with _skipping(item):
        yield
        experiment = item.stash.get(EXPERIMENT, None)
        if experiment is not None:
            if options.read(item.config).leaks != "off":  # before any strike: a marker may stop the servers
                item.stash[WATCH] = experiment.watch(item.config.rootpath, _loops(item))
            for marker in reversed(list(item.iter_markers("fault"))):  # the class's and module's before the function's
                experiment.strike(*marker.args, **marker.kwargs)


@contextmanager
def _skipping(item: pytest.Item) -> Iterator[None]:
    """A test that asks for a fault which this backend or platform can't inject is skipped, with the reason."""
    try:
        yield
    except Exception as error:
        from .errors import CannotInject

        if not isinstance(error, CannotInject):
            raise
        item.user_properties.append((CANNOT, str(error)))
        raise pytest.skip.Exception(str(error)) from None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Heal as soon as the test's body has ended, so that its report knows what was hit."""
    experiment = item.stash.get(EXPERIMENT, None)
    try:
        with _skipping(item):
            yield
    except BaseException as error:
        if experiment is not None:
            try:
                _settle(item, experiment)
            except Exception as second:  # noqa: BLE001  # whatever it is, it must not hide the first
                error.add_note(f"and then: {second}")  # the test's own failure is the story
        raise
    if experiment is not None:
        _settle(item, experiment)


def _settle(item: pytest.Item, experiment: Resilience) -> None:
    """Heal, and write down what struck, so that reports carry it (to xdist's controller and into JUnit too)."""
    from .report.terminal import packed

    try:
        experiment.settle()
    finally:
        item.user_properties += [(STRIKE, packed(strike)) for strike in experiment.strikes]
        if experiment.vacuous:
            item.user_properties.append((VACUOUS, "vacuous"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """Under --resilience-strict a vacuous test is an error."""
    yield
    experiment = item.stash.get(EXPERIMENT, None)
    if experiment is not None and experiment.vacuous and options.read(item.config).strict and _passed(item):
        from .errors import VacuousTest

        raise VacuousTest([(strike.label, str(strike.receipt)) for strike in experiment.vacuous])


def _loops(item: pytest.Item) -> list[Any]:
    """The event loops of pytest-asyncio's fixtures: from 3.14 on Python itself does not know them."""
    values: dict[str, Any] = getattr(item, "funcargs", {})
    return [value.get_loop() for name, value in values.items() if name.endswith("_scoped_runner")]


def _tear_down(item: pytest.Item) -> None:
    """The item's own, and then a look at what the test has left behind; under --resilience-leaks=error that is an error."""
    type(item).teardown(item)
    watch = item.stash.get(WATCH, None)
    if watch is None:
        return
    del item.stash[WATCH]
    if not _passed(item):
        return  # its traceback keeps alive whatever its frames have, and the failure is the story
    leaks = watch.leaks([pattern for marker in item.iter_markers("leaks") for pattern in marker.args])
    item.user_properties += [(LEAK, str(leak)) for leak in leaks]
    if leaks and options.read(item.config).leaks == "error":
        from .errors import LeakedResources

        raise LeakedResources(map(str, leaks), leaks[0].name)


def _passed(item: pytest.Item) -> bool:
    return item.stash.get(PASSED, False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show below a failure what struck and what the service wrote."""
    report = yield
    if report.skipped and (told := [text for name, text in item.user_properties if name == CANNOT]):
        path, line, _ = item.location
        report.longrepr = (
            str(item.config.rootpath / path),
            (line or 0) + 1,
            f"Skipped: {told[-1]}",
        )  # the test, not this file
    experiment = item.stash.get(EXPERIMENT, None)
    if experiment is not None and report.when == "call":
        item.stash[PASSED] = report.passed
        if report.failed:
            from .report.files import keep_logs
            from .report.terminal import strike_lines, tail

            struck, logs = strike_lines(experiment.strikes), experiment.logs()
            report.sections.append(("resilience: what struck", "\n".join(struck)))
            if logs.get("service"):
                report.sections.append(("resilience: the service's log", tail(logs["service"], LOG_LINES)))
            try:
                kept = str(keep_logs(item.config.rootpath, item.nodeid, {"strikes": "\n".join(struck), **logs}))
            except OSError as error:
                kept = f"could not be kept: {error}"
            report.sections.append(("resilience: all logs", kept))
    _redact(report)
    return report


def _redact(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Take the passwords of this session out of a report: --showlocals prints what libraries hold in their frames."""
    if redaction := sys.modules.get(f"{__package__}.redaction"):  # else there are none
        for name in "longrepr", "sections", "user_properties":
            if hasattr(report, name):
                setattr(report, name, redaction.redact(getattr(report, name)))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A report of a collection shows no passwords either: a module may connect while it is imported."""
    report = yield
    _redact(report)
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_internalerror(excrepr: Any) -> None:
    """An error inside pytest shows no passwords either; this hook's others print it."""
    if redaction := sys.modules.get(f"{__package__}.redaction"):
        redaction.redact(excrepr)


def pytest_report_teststatus(report: pytest.CollectReport | pytest.TestReport) -> Any:
    """VACUOUS is an outcome of its own."""
    if report.when == "call" and report.passed and (VACUOUS, "vacuous") in getattr(report, "user_properties", ()):
        return "vacuous", "V", ("VACUOUS", {"yellow": True})
    return None


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What struck in this run, which tests are vacuous, and what was left behind."""
    every = [r for rs in terminalreporter.stats.values() for r in rs]
    reports = [r for r in every if getattr(r, "when", None) == "call"]
    ends = [r for r in every if getattr(r, "when", None) == "teardown"]
    leaks = [(r.nodeid, value) for r in ends for name, value in r.user_properties if name == LEAK]
    struck = [(r.nodeid, value) for r in reports for name, value in r.user_properties if name == STRIKE]
    skipped = terminalreporter.stats.get("skipped", [])
    cannot = [value for r in skipped for name, value in getattr(r, "user_properties", ()) if name == CANNOT]
    if struck or cannot or leaks:
        from .report.terminal import leak_lines, summary, what_cannot

        terminalreporter.section("resilience")
        vacuous = {r.nodeid for r in terminalreporter.stats.get("vacuous", [])}
        for line in (*summary(struck, vacuous), *what_cannot(cannot), *leak_lines(leaks)):
            terminalreporter.write_line(line)
