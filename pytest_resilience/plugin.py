"""pytest's hooks, a few lines each; imports nothing heavy."""

from __future__ import annotations

import functools
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from . import options
from .fixtures import resilience, resilience_schema, resilience_service, resilience_stack  # noqa: F401  # pytest finds them here
from .kept_modules import FINDER
from .report.run_reports import (
    ATTEMPT,
    ATTEMPT_PROPERTIES,
    FAILED_ATTEMPTS,
    LEAK,
    OUTCOME,
    STRIKE,
    UNSUPPORTED,
    RunReports,
)
from .stash import ATTEMPTS, DESCRIBED, FAILED_ATTEMPT_NUMBERS, LEAK_CHECK, PASSED, RESILIENCE, WORKER_DESCRIPTION

if TYPE_CHECKING:
    from .resilience import Resilience

VACUOUS = (OUTCOME, "vacuous")
FIXTURES = {"resilience", "resilience_stack"}
DESCRIPTION = "resilience"  # in a worker's output
LOG_LINES = 60  # of the service's log, below a failure


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    options.register(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers and read the options, so that a wrong one ends the run before it begins."""
    config.addinivalue_line(
        "markers", 'fault(name, **settings): strike before the test, heal after it; such as fault("redis.refuse")'
    )
    config.addinivalue_line(
        "markers",
        'leaks(*names): what the test may leave behind; patterns such as leaks("thread:watcher-*", "postgres:shop")',
    )
    FINDER.restore()
    given = options.load(config)
    if hasattr(config, "workerinput"):
        return  # the controller has looked, before it started the workers
    # What the configuration of a project names need not be here for tests that don't use it. (Which do is not known under xdist.)
    if given.backend_for_this_run or given.backend == "external" or getattr(config.option, "numprocesses", None):
        given.require_backend()


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the hooks that others may implement."""
    from . import hooks

    pluginmanager.add_hookspecs(hooks)


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """--resilience-backends: print the table, run nothing."""
    if not config.getoption("resilience_backends"):
        return None
    from .backends.registry import capability_table

    given = options.load(config)
    sys.stdout.write("\n".join(capability_table(given.settings, given.plugin_backends)) + "\n")
    return 0


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say what the run uses, if it was configured to use something; other people's runs have no line of ours."""
    if not options.options_of(config).is_configured:
        return None
    config.stash[DESCRIBED] = True
    return options.describe(config)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """End the run before the first test when the backend that the configuration names is not here, and a test needs it."""
    given = options.options_of(session.config)
    if (
        not given.backend_for_this_run
        and not hasattr(session.config, "workerinput")
        and _any_uses_fixtures(session.items)
    ):
        given.require_backend()


def pytest_report_collectionfinish(config: pytest.Config, items: Sequence[pytest.Item]) -> str | list[str]:
    """Say what the run uses, if the header has not and a test uses it."""
    if DESCRIBED in config.stash or config.get_verbosity() < 0 or not _any_uses_fixtures(items):
        return []
    config.stash[DESCRIBED] = True
    return options.describe(config)


def _any_uses_fixtures(items: Sequence[pytest.Item]) -> bool:
    return any(FIXTURES & set(getattr(item, "fixturenames", ())) for item in items)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell xdist's controller what this worker has used."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None and options.SELECTED_BACKEND in session.config.stash:
        output[DESCRIPTION] = options.describe(session.config)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Keep what a worker of xdist has used, for the end of the run."""
    if said := getattr(node, "workeroutput", {}).get(DESCRIPTION):
        node.config.stash[WORKER_DESCRIPTION] = said


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """xdist: the controller's seed for every worker."""
    node.workerinput["resilience_seed"] = options.options_of(node.config).seed


def pytest_itemcollected(item: pytest.Item) -> None:
    """A test with a fault marker has the fixture too, typed or not."""
    names = getattr(item, "fixturenames", None)
    if names is not None and "resilience" not in names and item.get_closest_marker("fault") is not None:
        names.append("resilience")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    """Look around, and strike what markers name, after all fixtures are there."""
    __tracebackhide__ = True
    FINDER.restore()  # a fixture of the last test, or of this one's class or module, may have put an older state back
    _begin_attempt(item)
    if "resilience" in getattr(item, "fixturenames", ()):
        # pytest calls this after the item's own fixtures are gone, and before those of its module and session are.
        setattr(item, "teardown", functools.partial(_teardown_then_check_leaks, item))  # noqa: B010  # no assignment to a method, says mypy
    with _healing_on_errors(item), _skip_unsupported(item):
        yield
        for marker in item.iter_markers("leaks"):
            from .leaks.compare import check_patterns

            check_patterns(marker.args, marker.kwargs)
        fixture = item.stash.get(RESILIENCE, None)
        if fixture is not None:
            if options.options_of(item.config).leaks != "off":  # before any strike: a marker may stop the servers
                allowed = [pattern for marker in item.iter_markers("leaks") for pattern in marker.args]
                item.stash[LEAK_CHECK] = fixture.start_leak_check(
                    item.config.rootpath, _pytest_asyncio_loops(item), allowed
                )
                if "resilience" in getattr(item, "fixturenames", ()):  # else nothing tells when the fixtures are gone
                    fixture.watch_event_loops()
            for marker in reversed(list(item.iter_markers("fault"))):  # the class's and module's before the function's
                fixture.strike(*marker.args, **marker.kwargs)
    if FINDER.has_saved:
        FINDER.save()


def _begin_attempt(item: pytest.Item) -> None:
    """Forget what an earlier attempt of the test has left: plugins that run a test again keep the item."""
    attempt = item.stash[ATTEMPTS] = item.stash.get(ATTEMPTS, 0) + 1
    failed = item.stash.setdefault(FAILED_ATTEMPT_NUMBERS, set())
    old: tuple[pytest.StashKey[Any], ...] = (RESILIENCE, PASSED, LEAK_CHECK)
    for key in old:
        if key in item.stash:
            del item.stash[key]
    item.user_properties[:] = [each for each in item.user_properties if each[0] not in ATTEMPT_PROPERTIES]
    if attempt > 1 and "resilience" in getattr(item, "fixturenames", ()):
        item.user_properties.append((ATTEMPT, str(attempt)))
        if failed:
            item.user_properties.append((FAILED_ATTEMPTS, str(len(failed))))


@contextmanager
def _healing_on_errors(item: pytest.Item) -> Iterator[None]:
    """Heal as soon as the test has failed, and keep its failure in front of one of the healing."""
    try:
        yield
    except BaseException as error:
        FINDER.restore()
        fixture = item.stash.get(RESILIENCE, None)
        if fixture is not None:
            try:
                _heal_and_record(item, fixture)
            except Exception as second:  # noqa: BLE001  # whatever it is, it must not hide the first
                error.add_note(f"and then: {second}")
        raise


@contextmanager
def _skip_unsupported(item: pytest.Item) -> Iterator[None]:
    """A test that asks for a fault which this backend or platform can't inject is skipped, with the reason."""
    try:
        yield
    except Exception as error:
        from .errors import CannotInject

        if not isinstance(error, CannotInject):
            raise
        item.user_properties.append((UNSUPPORTED, str(error)))
        raise pytest.skip.Exception(str(error)) from None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Heal as soon as the test's body has ended, so that its report knows what was hit."""
    with _healing_on_errors(item), _skip_unsupported(item):
        yield
    FINDER.restore()
    fixture = item.stash.get(RESILIENCE, None)
    if fixture is not None:
        FINDER.save()
        _heal_and_record(item, fixture)


def _heal_and_record(item: pytest.Item, fixture: Resilience) -> None:
    """Heal, and write down what struck, so that reports carry it (to xdist's controller and into JUnit too)."""
    from .report.terminal import serialize_strike

    try:
        fixture.finish()
    finally:
        item.user_properties += [(STRIKE, serialize_strike(strike)) for strike in fixture.strikes]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """Under --resilience-strict a vacuous test is an error."""
    yield
    FINDER.restore()
    fixture = item.stash.get(RESILIENCE, None)
    if fixture is not None and fixture.vacuous and options.options_of(item.config).strict and _passed(item):
        from .errors import VacuousTest

        raise VacuousTest([(strike.label, str(strike.receipt)) for strike in fixture.vacuous])


def _pytest_asyncio_loops(item: pytest.Item) -> list[Any]:
    """The event loops of pytest-asyncio's fixtures: from 3.14 on Python itself does not know them."""
    values: dict[str, Any] = getattr(item, "funcargs", {})
    return [value.get_loop() for name, value in values.items() if name.endswith("_scoped_runner")]


def _teardown_then_check_leaks(item: pytest.Item) -> None:
    """The item's own, and then a look at what the test has left behind; under --resilience-leaks=error that is an error."""
    type(item).teardown(item)
    FINDER.restore()  # fixtures of this test may have put an older state of sys.modules back
    if fixture := item.stash.get(RESILIENCE, None):
        fixture.stop_watching_event_loops()
    check = item.stash.get(LEAK_CHECK, None)
    if check is None:
        return
    del item.stash[LEAK_CHECK]
    if not _passed(item):
        return  # its traceback keeps alive whatever its frames have, and the failure is the story
    leaks = check.leaks()
    item.user_properties += [(LEAK, str(leak)) for leak in leaks]
    if leaks and options.options_of(item.config).leaks == "error":
        from .errors import LeakedResources

        raise LeakedResources(map(str, leaks), leaks[0].name)


def _passed(item: pytest.Item) -> bool:
    return item.stash.get(PASSED, False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show below a failure what struck and what the service wrote."""
    if call.excinfo is not None and not item.config.getoption("fulltrace"):
        from .report.frames import shorten

        if shorten(call.excinfo.value, str(item.path), (item.location[1] or 0) + 1, item.name):
            call.excinfo = pytest.ExceptionInfo.from_exception(call.excinfo.value)
    report = yield
    if report.skipped and (told := [text for name, text in item.user_properties if name == UNSUPPORTED]):
        path, line, _ = item.location
        report.longrepr = (
            str(item.config.rootpath / path),
            (line or 0) + 1,
            f"Skipped: {told[-1]}",
        )  # the test, not this file
    attempt, failed = item.stash.get(ATTEMPTS, 1), item.stash.setdefault(FAILED_ATTEMPT_NUMBERS, set())
    if report.failed:
        failed.add(attempt)
    fixture = item.stash.get(RESILIENCE, None)
    if fixture is not None and report.when == "call":
        # A failed subtest makes pytest call the test failed too, but later than here. A subtest has a report of its own before.
        passed = item.stash[PASSED] = report.passed and attempt not in failed
        if passed and any(name == STRIKE for name, _ in item.user_properties) and fixture.vacuous:
            item.user_properties.append(VACUOUS)
            report.user_properties.append(VACUOUS)
        if report.failed:
            from .redaction import scrubbed
            from .report.artifacts import save_logs
            from .report.terminal import strike_lines, tail

            struck, logs = strike_lines(fixture.strikes), fixture.logs()
            report.sections.append(("resilience: what struck", "\n".join(struck)))
            if logs.get("service"):
                report.sections.append(("resilience: the service's log", tail(scrubbed(logs["service"]), LOG_LINES)))
            try:
                every = {"strikes": "\n".join(struck), **logs}
                kept = str(save_logs(item.config.rootpath, item.nodeid, every, attempt=attempt))
            except OSError as error:
                kept = f"could not be kept: {error}"
            report.sections.append(("resilience: all logs", kept))
    if report.when == "teardown" and report.failed and not _is_vacuous(call) and VACUOUS in report.user_properties:
        report.user_properties.remove(VACUOUS)  # JUnit calls it an error
    _redact(report)
    return report


def _is_vacuous(call: pytest.CallInfo[None]) -> bool:
    """True if --resilience-strict has made the error of a teardown."""
    from .errors import VacuousTest

    return call.excinfo is not None and isinstance(call.excinfo.value, VacuousTest)


def _redact(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Take the passwords of this session out of a report: --showlocals prints what libraries hold in their frames."""
    if redaction := sys.modules.get(f"{__package__}.redaction"):  # else there are none
        for name in "longrepr", "sections", "user_properties":
            if hasattr(report, name):
                setattr(report, name, redaction.redact_report(getattr(report, name)))


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
        redaction.redact_report(excrepr)


def pytest_report_teststatus(report: pytest.CollectReport | pytest.TestReport) -> Any:
    """VACUOUS is an outcome of its own."""
    if report.when == "call" and report.passed and VACUOUS in getattr(report, "user_properties", ()):
        return "vacuous", "V", ("VACUOUS", {"yellow": True})
    return None


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what struck in this run, which tests are vacuous or flaky, and what was left behind."""
    config = terminalreporter.config
    run = RunReports(terminalreporter.stats)
    strikes, unsupported, leaks = run.strikes(), run.unsupported(), run.leaks()
    said = config.stash.get(WORKER_DESCRIPTION, None) or (
        options.describe(config) if options.SELECTED_BACKEND in config.stash else None
    )
    if DESCRIBED in config.stash:
        said = None
    if strikes or unsupported or leaks or said:
        from .report.terminal import fault_lines, flaky_lines, leak_lines, unsupported_lines, vacuous_lines

        terminalreporter.section("resilience")
        if said:
            terminalreporter.write_line(said)
        tests = (*vacuous_lines(run.vacuous()), *flaky_lines(run.flaky()))
        for line in (*fault_lines(strikes), *tests, *unsupported_lines(unsupported), *leak_lines(leaks)):
            terminalreporter.write_line(line)
