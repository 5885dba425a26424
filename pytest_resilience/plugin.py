"""The hooks of pytest, a few lines each. Every run of pytest imports this file, so it imports nothing heavy."""

from __future__ import annotations

import functools
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from . import options
from .fixtures import (  # noqa: F401  # pytest finds them here
    resilience,
    resilience_hosts,
    resilience_schema,
    resilience_service,
    resilience_stack,
)
from .generated_items import is_generated, never_hit_property, strike_markers
from .generated_items import run as run_generated
from .kept_modules import FINDER
from .report.run_reports import (
    ATTEMPT,
    ATTEMPT_PROPERTIES,
    FAILED_ATTEMPTS,
    LEAK,
    NOT_STRUCK,
    OUTCOME,
    STRIKE,
    STRIKES,
    UNSUPPORTED,
)
from .report.summary import Summary
from .stash import (
    ATTEMPTS,
    DESCRIBED,
    FAILED_ATTEMPT_NUMBERS,
    LEAK_CHECK,
    PASSED,
    RECORDED,
    RESILIENCE,
    WORKER_DESCRIPTION,
)

if TYPE_CHECKING:
    import warnings

    from .resilience import Resilience

VACUOUS = (OUTCOME, "vacuous")
FIXTURES = {"resilience", "resilience_stack"}
DESCRIPTION = "resilience"  # the key in a worker's output
LOG_LINES = 60  # of the service's log, below a failure


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    options.register(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers and read the options. A wrong option ends the run before it begins."""
    config.addinivalue_line(
        "markers", 'fault(name, **settings): strike before the test, heal after it; such as fault("redis.refuse")'
    )
    config.addinivalue_line(
        "markers",
        'leaks(*names, patience=0.5): resources that the test may leak, as patterns such as "thread:watcher-*" or "postgres:shop"; '
        "patience is in seconds, for resources that are released late",
    )
    FINDER.restore()
    given = options.load(config)
    if given.replay is not None:
        from .replaying import Replaying

        config.pluginmanager.register(Replaying(config, given.replay), "resilience-replay")
    if hasattr(config, "workerinput"):
        return  # the controller has checked the backend, before it started the workers
    config.pluginmanager.register(Summary(functools.partial(_run_line, config)), "resilience-summary")
    # A backend that the project's configuration names is checked later, if a test uses it. xdist's controller collects no tests.
    if given.backend_for_this_run or given.backend == "external" or getattr(config.option, "numprocesses", None):
        given.require_backend()


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the hooks that other plugins may implement."""
    from . import hooks

    pluginmanager.add_hookspecs(hooks)


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Print the table of backends and run no test, under --resilience-backends."""
    if not config.getoption("resilience_backends"):
        return None
    from .backends.registry import capability_table

    given = options.load(config)
    sys.stdout.write("\n".join(capability_table(given.settings, given.plugin_backends)) + "\n")
    return 0


def pytest_report_header(config: pytest.Config) -> str | None:
    """Show the backend and the seed, if the run configures the plugin. Other runs have no line of this plugin."""
    if not options.options_of(config).is_configured:
        return None
    config.stash[DESCRIBED] = True
    return options.describe(config)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """End the run before the first test, if a test needs the backend that the configuration names and it is not available."""
    given = options.options_of(session.config)
    is_worker = hasattr(session.config, "workerinput")
    if not given.backend_for_this_run and not is_worker and _any_uses_fixtures(session.items):
        given.require_backend()


def pytest_report_collectionfinish(config: pytest.Config, items: Sequence[pytest.Item]) -> str | list[str]:
    """Show the backend and the seed, if a test uses the plugin and the header has not shown them."""
    if DESCRIBED in config.stash or config.get_verbosity() < 0 or not _any_uses_fixtures(items):
        return []
    config.stash[DESCRIBED] = True
    return options.describe(config)


def _any_uses_fixtures(items: Sequence[pytest.Item]) -> bool:
    return any(FIXTURES & set(getattr(item, "fixturenames", ())) for item in items)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send the backend and the seed of this worker to xdist's controller."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None and options.SELECTED_BACKEND in session.config.stash:
        output[DESCRIPTION] = options.describe(session.config)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Keep the backend and the seed of a worker of xdist for the end of the run."""
    if description := getattr(node, "workeroutput", {}).get(DESCRIPTION):
        node.config.stash[WORKER_DESCRIPTION] = description


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Send the controller's seed to each worker of xdist."""
    node.workerinput["resilience_seed"] = options.options_of(node.config).seed


def _run_line(config: pytest.Config) -> str | None:
    """Return the line with the backend and the seed for the end of the run, or None if it was shown or nothing used them."""
    if DESCRIBED in config.stash:
        return None
    own = options.describe(config) if options.SELECTED_BACKEND in config.stash else None
    return config.stash.get(WORKER_DESCRIPTION, own)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Give a test with a fault marker the fixture `resilience`, if it does not name it."""
    names = getattr(item, "fixturenames", None)
    if names is not None and item.get_closest_marker("fault") is not None:
        names += [each for each in ("resilience", *_fixtures_of_targets(item)) if each not in names]
    if is_generated(item):
        from .generated.hypothesis_test import suppress_health_checks

        suppress_health_checks(item.obj)  # type: ignore[attr-defined]  # a function has one


def _fixtures_of_targets(item: pytest.Item) -> Iterator[str]:
    """Yield the names of fixtures that are the targets of a test's fault markers, such as "payments" for "payments.refuse"."""
    for marker in item.iter_markers("fault"):
        target = str(marker.args[0]).partition(".")[0] if marker.args else ""
        if target and item.session._fixturemanager.getfixturedefs(
            target, item
        ):  # pytest has no public way to look one up
            yield target


@pytest.hookimpl
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a generated test. It comes after the plugins for async tests, which have replaced the function that Hypothesis runs."""
    if RESILIENCE not in pyfuncitem.stash or not is_generated(pyfuncitem):
        return None

    __tracebackhide__ = True
    run_generated(pyfuncitem)
    return True


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    """Begin the check for leaks and strike the faults of markers, after all fixtures are set up."""
    __tracebackhide__ = True
    FINDER.restore()  # a fixture of the last test, or of this one's class or module, may have put an older state back
    _begin_attempt(item)
    if unused := _unused():
        unused.begin_test()
    uses_fixture = "resilience" in getattr(item, "fixturenames", ())
    if uses_fixture:
        _replace_teardown(item)
    with _healing_on_errors(item), _skip_unsupported(item):
        yield
        for marker in item.iter_markers("leaks"):
            from .leaks.compare import check_patterns

            check_patterns(marker.args, marker.kwargs)
        fixture = item.stash.get(RESILIENCE, None)
        if fixture is not None:
            if options.options_of(item.config).leaks != "off":  # before any strike: a marker may stop the servers
                allowed = [pattern for marker in item.iter_markers("leaks") for pattern in marker.args]
                patience = next(
                    (m.kwargs["patience"] for m in item.iter_markers("leaks") if "patience" in m.kwargs), None
                )
                loops = _pytest_asyncio_loops(item)
                item.stash[LEAK_CHECK] = fixture.start_leak_check(item.config.rootpath, loops, allowed, patience)
                if uses_fixture:  # only its teardown stops the watch
                    fixture.watch_event_loops()
            if not is_generated(item):  # each example of a generated test strikes anew
                strike_markers(item)
    if FINDER.has_saved:
        FINDER.save()


def _begin_attempt(item: pytest.Item) -> None:
    """Remove the results of an earlier attempt. A plugin that runs a test again keeps the item."""
    attempt = item.stash[ATTEMPTS] = item.stash.get(ATTEMPTS, 0) + 1
    failed = item.stash.setdefault(FAILED_ATTEMPT_NUMBERS, set())
    old: tuple[pytest.StashKey[Any], ...] = (RESILIENCE, RECORDED, PASSED, LEAK_CHECK)
    for key in old:
        if key in item.stash:
            del item.stash[key]
    item.user_properties[:] = [each for each in item.user_properties if each[0] not in ATTEMPT_PROPERTIES]
    if attempt > 1 and "resilience" in getattr(item, "fixturenames", ()):
        item.user_properties.append((ATTEMPT, str(attempt)))
        if failed:
            item.user_properties.append((FAILED_ATTEMPTS, str(len(failed))))


def _replace_teardown(item: pytest.Item) -> None:
    """Check for leaks between the teardown of the item's fixtures and that of its class, module and session.

    pytest has no hook there: pytest_runtest_teardown returns when all of them are torn down, and a fixture of the plugin ends
    before those that were set up earlier. `SetupState.teardown_exact` calls `item.teardown()` right there.
    """
    setattr(item, "teardown", functools.partial(_teardown_then_check_leaks, item))  # noqa: B010  # mypy forbids the assignment


@contextmanager
def _healing_on_errors(item: pytest.Item) -> Iterator[None]:
    """Heal as soon as the test has failed. An error of the healing becomes a note of the test's failure.

    Under --pdb, the faults of a failure last while the debugger shows it. The teardown of the test heals them.
    """
    try:
        yield
    except BaseException as error:
        FINDER.restore()
        if _is_debugged(item, error):
            _record(item)
        else:
            _heal_with_note(item, error)
        raise


def _is_debugged(item: pytest.Item, error: BaseException) -> bool:
    """True if pytest opens a debugger for an error. It opens none for a skip, an xfail, and an error that ends the run."""
    not_debugged = (pytest.skip.Exception, pytest.xfail.Exception, pytest.exit.Exception, SystemExit)
    return item.config.getoption("usepdb", False) and not isinstance(error, not_debugged)


def _heal_with_note(item: pytest.Item, error: BaseException) -> None:
    """Heal after an error. An error of the healing becomes a note of it."""
    try:
        _heal_and_record(item)
    except Exception as second:  # noqa: BLE001  # no error must hide the first one
        error.add_note(f"and then: {second}")


@pytest.hookimpl(wrapper=True)
def pytest_exception_interact(node: pytest.Item | pytest.Collector) -> Generator[None]:
    """Heal if the debugger of --pdb ends the run, because the teardown of fixtures may need the servers."""
    try:
        yield
    except BaseException as error:
        if isinstance(node, pytest.Item):
            _heal_with_note(node, error)
        raise


@contextmanager
def _skip_unsupported(item: pytest.Item) -> Iterator[None]:
    """Skip a test if this backend or platform can't inject its fault, with the reason."""
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
    """Heal as soon as the test's body has ended, so that its report has the receipts. Fail if it has not used what it called."""
    __tracebackhide__ = True
    if unused := _unused():
        unused.begin_body()
    with _healing_on_errors(item), _skip_unsupported(item):
        yield
    FINDER.restore()
    if RESILIENCE in item.stash:
        FINDER.save()
        _heal_and_record(item)
    if unused := _unused():
        unused.check()


def _unused() -> Any:
    """Return the module with the calls whose results a test has to use, or None if nothing has loaded it."""
    return sys.modules.get(f"{__package__}.unused")


def _heal_and_record(item: pytest.Item) -> None:
    """Heal, unless that has been done, and record the strikes."""
    fixture = item.stash.get(RESILIENCE, None)
    if fixture is not None:
        try:
            fixture.finish()
        finally:
            _record(item)


def _record(item: pytest.Item) -> None:
    """Add strikes and searches to the properties of the test, which reach xdist's controller and JUnit. Once for each attempt."""
    fixture = item.stash.get(RESILIENCE, None)
    if fixture is None or RECORDED in item.stash:
        return
    from .report.terminal import serialize_strike

    item.stash[RECORDED] = True
    item.user_properties += [(STRIKE, serialize_strike(strike)) for strike in fixture.strikes]
    item.user_properties += fixture.properties


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """Heal what has lasted while a debugger was open, and fail a vacuous test under --resilience-strict."""
    FINDER.restore()
    try:
        _heal_and_record(item)
    finally:
        yield
    FINDER.restore()
    fixture = item.stash.get(RESILIENCE, None)
    is_strict = options.options_of(item.config).strict
    if fixture is not None and is_strict and _passed(item) and (vacuous := _vacuous(item, fixture)):
        from .errors import VacuousTest

        raise VacuousTest(vacuous)


def _vacuous(item: pytest.Item, fixture: Resilience) -> list[tuple[str, str]]:
    """Return (fault, receipt) of the strikes that make a test vacuous."""
    return [*((strike.label, str(strike.receipt)) for strike in fixture.vacuous), *_never_hit(item, fixture)]


def _never_hit(item: pytest.Item, fixture: Resilience) -> list[tuple[str, str]]:
    """Return (fault, receipt) of the faults that make a play, the examples of a generated test, or a state machine vacuous."""
    if options.options_of(item.config).replay is not None:
        return []  # the exit code of a replay is 1 for a failure only
    if not (is_generated(item) or fixture.properties):
        return fixture.never_struck
    from .generated.vacuity import never_hit

    return never_hit(fixture.tally)


def _pytest_asyncio_loops(item: pytest.Item) -> list[Any]:
    """Return the event loops of pytest-asyncio's fixtures, which Python does not list from 3.14 on."""
    values: dict[str, Any] = getattr(item, "funcargs", {})
    return [value.get_loop() for name, value in values.items() if name.endswith("_scoped_runner")]


def _teardown_then_check_leaks(item: pytest.Item) -> None:
    """Tear the item down, then check a test that passed for leaks, which are an error under --resilience-leaks=error."""
    type(item).teardown(item)
    FINDER.restore()  # fixtures of this test may have put an older state of sys.modules back
    if fixture := item.stash.get(RESILIENCE, None):
        fixture.stop_watching_event_loops()
    check = item.stash.get(LEAK_CHECK, None)
    if check is None:
        return
    del item.stash[LEAK_CHECK]
    if not _passed(item):
        return  # the traceback keeps alive what its frames refer to, and the failure matters more
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
    """Add the strikes and the logs to the report of a failure, and mark a vacuous test."""
    _explain_broken_promise(item, call)
    _shorten_traceback(item, call)
    report = yield
    if report.skipped:
        _move_skip_to_test(item, report)
    if report.failed:
        item.stash.setdefault(FAILED_ATTEMPT_NUMBERS, set()).add(item.stash.get(ATTEMPTS, 1))
    fixture = item.stash.get(RESILIENCE, None)
    if fixture is not None and report.when == "call":
        if fixture.finished:  # a subtest has a report of its own before
            _mark_outcome(item, report, fixture)
        if report.failed:
            _add_logs(item, report, fixture)
    if report.when == "teardown" and report.failed and not _is_vacuous(call) and VACUOUS in report.user_properties:
        report.user_properties.remove(VACUOUS)  # JUnit calls it an error
    _redact(report)
    return report


def _explain_broken_promise(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Add the witness and the timeline to the error of a checker. A test without a checker loads nothing for this."""
    from .errors import PromiseBroken

    if call.excinfo is not None and isinstance(call.excinfo.value, PromiseBroken):
        from .report.failure import explain

        error, fixture = call.excinfo.value, item.stash.get(RESILIENCE, None)
        file = fixture.history_file if fixture is not None and error.history is fixture.history else None
        explain(error, None, file=file)


def _shorten_traceback(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Remove the frames of the plugin from an error that its message explains, unless --full-trace is set."""
    if call.excinfo is None or item.config.getoption("fulltrace", False):
        return
    from .report.frames import shorten

    if shorten(call.excinfo.value, str(item.path), (item.location[1] or 0) + 1, item.name):
        call.excinfo = pytest.ExceptionInfo.from_exception(call.excinfo.value)


def _move_skip_to_test(item: pytest.Item, report: pytest.TestReport) -> None:
    """Give a skip for an unsupported fault the line of the test instead of a line of this file."""
    reasons = [text for name, text in item.user_properties if name == UNSUPPORTED]
    if reasons:
        path, line, _ = item.location
        report.longrepr = (str(item.config.rootpath / path), (line or 0) + 1, f"Skipped: {reasons[-1]}")


def _mark_outcome(item: pytest.Item, report: pytest.TestReport, fixture: Resilience) -> None:
    """Record that the body of a test has passed, and that it was vacuous if it was.

    A failed subtest makes pytest fail the test too, but only after this hook. The subtest's own report comes before.
    """
    failed = item.stash.setdefault(FAILED_ATTEMPT_NUMBERS, set())
    passed = item.stash[PASSED] = report.passed and item.stash.get(ATTEMPTS, 1) not in failed
    has_strikes = any(n in (STRIKE, STRIKES) for n, _ in item.user_properties)
    if passed and (has_strikes or fixture.never_struck) and _vacuous(item, fixture):
        found = [VACUOUS, *(never_hit_property(*each) for each in _never_hit(item, fixture))]
        item.user_properties += found
        report.user_properties += found
    elif passed and not (is_generated(item) or fixture.properties):
        found = [(NOT_STRUCK, f"{step} {reason}") for step, reason in fixture.not_struck]
        item.user_properties += found
        report.user_properties += found


def _add_logs(item: pytest.Item, report: pytest.TestReport, fixture: Resilience) -> None:
    """Add the injected faults, the service's log and the file with all logs to the report of a failed test."""
    from .redaction import scrubbed
    from .report.artifacts import save_logs
    from .report.terminal import strike_lines, tail, tally_lines

    injected = tally_lines(fixture.tally) or strike_lines(fixture.strikes, lasting=not fixture.finished)
    strikes, logs = "\n".join(injected), fixture.logs()
    report.sections.append(("resilience: injected faults", strikes))
    deaths = fixture.service_deaths()
    for name, text in fixture.service_logs().items():
        parts = [tail(scrubbed(text), LOG_LINES)] if text else []
        if name in deaths:
            parts.append(f"({deaths[name]})")
        if parts:
            report.sections.append((f"resilience: {name} log", "\n".join(parts)))
    attempt = item.stash.get(ATTEMPTS, 1)
    try:
        place = str(save_logs(item.config.rootpath, item.nodeid, {"strikes": strikes, **logs}, attempt=attempt))
    except OSError as error:
        place = f"could not be saved: {error}"
    report.sections.append(("resilience: all logs", place))


def _is_vacuous(call: pytest.CallInfo[None]) -> bool:
    """True if --resilience-strict has made the error of a teardown."""
    from .errors import VacuousTest

    return call.excinfo is not None and isinstance(call.excinfo.value, VacuousTest)


def _redact(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Remove the passwords of this session from a report.

    --showlocals prints the values in the frames of libraries.
    """
    if redaction := sys.modules.get(f"{__package__}.redaction"):  # else there are none
        for name in "longrepr", "sections", "user_properties", "wasxfail":
            if hasattr(report, name):
                setattr(report, name, redaction.redact_report(getattr(report, name)))
        if hasattr(report, "context"):
            redaction.redact_subtest(report.context)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remove passwords from what pytest adds after it has made a report: the reason of an xfail, the name and output of a subtest."""
    if hasattr(report, "wasxfail") or hasattr(report, "context"):
        _redact(report)


@pytest.hookimpl(tryfirst=True)
def pytest_warning_recorded(warning_message: warnings.WarningMessage) -> None:
    """Remove passwords from a warning. An exception in a thread or in `__del__` is one."""
    if redaction := sys.modules.get(f"{__package__}.redaction"):
        text = str(warning_message.message)
        if (shown := redaction.redacted(text)) != text:
            warning_message.message = shown


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Remove passwords from the report of a collection, because a module may connect while it is imported."""
    report = yield
    _redact(report)
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_internalerror(excrepr: Any) -> None:
    """Remove passwords from an error inside pytest, before the other implementations of this hook print it."""
    if redaction := sys.modules.get(f"{__package__}.redaction"):
        redaction.redact_report(excrepr)


def pytest_report_teststatus(report: pytest.CollectReport | pytest.TestReport) -> Any:
    """Make VACUOUS an outcome beside those of pytest."""
    if report.when == "call" and report.passed and VACUOUS in getattr(report, "user_properties", ()):
        return "vacuous", "V", ("VACUOUS", {"yellow": True})
    return None
