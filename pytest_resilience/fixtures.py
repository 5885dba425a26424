"""The fixtures. Heavy modules are imported when a test first uses one of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import pytest

from . import options
from .described_services import services_of, systems_of
from .kept_modules import FINDER
from .stash import ATTEMPTS, HISTORY_LOST, RESILIENCE

if TYPE_CHECKING:
    from .admin.schema_init import Init
    from .history_file import HistoryFile
    from .resilience import Resilience
    from .stack import Stack
    from .targets.service_spec import Service


@pytest.fixture(scope="session")
def resilience_schema() -> Init | None:
    """Override this to make your schema.

    Return SQL, `Path`s of files with SQL, or functions that take the database's URL.
    The schema is made once. Each test begins with it and with its rows, as with a clone.
    """
    return None


@pytest.fixture(scope="session")
def resilience_hosts(pytestconfig: pytest.Config) -> Iterable[str]:
    """Override this to name the hosts beside loopback that `factories.tcp` and `resilience_stack.add_tcp` may have as upstreams.

    Return names or numeric addresses without ports. The default is the option resilience_hosts.
    """
    return options.options_of(pytestconfig).hosts


@pytest.fixture(scope="session")
def resilience_stack(
    pytestconfig: pytest.Config, resilience_schema: Init | None, resilience_hosts: Iterable[str]
) -> Iterator[Stack]:
    """Postgres and Redis behind a Toxiproxy, for the whole session (one stack per xdist worker).

    Attributes: backend (name), seed, postgres, redis (each with url, direct_url, host, port, proxy and faults), toxiproxy (a
    toxiproxy-python client of this stack). Methods: add_postgres, add_redis, add_mysql, add_mariadb,
    add_rabbitmq, add_tcp and add_http_stub.
    """
    from .stack import Stack

    given = options.options_of(pytestconfig)
    stack = Stack(options.selected_backend(pytestconfig).create(), given.seed, resilience_hosts)
    FINDER.save()
    try:
        if resilience_schema is not None:
            stack.load_schema(resilience_schema)
        yield stack
    finally:
        FINDER.restore()  # fixtures that ended before may have restored an older state of sys.modules
        stack.close()


@pytest.fixture(scope="session")
def resilience_service() -> Service | Mapping[str, Service] | None:
    """Override this to describe how your service starts.

    Return a `pytest_resilience.Service`, or a dict of several by name, such as {"web": Service(...), "worker": Service(...)}.
    The default is None. `resilience.service` then raises an error that shows the lines to write.
    """
    return None


@pytest.fixture
def resilience(
    request: pytest.FixtureRequest,
    resilience_stack: Stack,
    resilience_service: Service | Mapping[str, Service] | None,
) -> Iterator[Resilience]:
    """Targets for faults: `.postgres`, `.redis`, `.service`, and `.services` by name. `.strikes` has the strikes so far.

    Each test begins with a clean database, an empty Redis and no toxics. All its strikes heal at its end.
    """
    from .history import recording
    from .resilience import Resilience

    running = resilience_stack.prepare_services(services_of(request, resilience_stack, resilience_service))
    file = _open_history(request.node)
    resilience = Resilience(resilience_stack, running, file)
    resilience.systems = systems_of(request)
    resilience.profile = options.options_of(request.config).profile
    request.node.stash[RESILIENCE] = resilience
    with recording(resilience.history):
        try:
            yield resilience
        finally:
            FINDER.restore()
            try:
                resilience.finish()  # does nothing if the body has run
            finally:
                resilience.history.close()
                _warn_of_lost_history(request.config, file)


def _open_history(item: pytest.Item) -> HistoryFile | None:
    from .report.artifacts import open_history

    worker = getattr(item.config, "workerinput", {}).get("workerid", "main")
    directory = options.options_of(item.config).history
    return open_history(item.config.rootpath, directory, worker, item.nodeid, attempt=item.stash.get(ATTEMPTS, 1))


def _warn_of_lost_history(config: pytest.Config, file: HistoryFile | None) -> None:
    """Warn once in a run that histories can't be written. A test does not fail for that."""
    if file is None or file.problem is None or HISTORY_LOST in config.stash:
        return
    config.stash[HISTORY_LOST] = True
    warnings.warn(
        pytest.PytestWarning(
            f"pytest-resilience: the history of a test can't be written: {file.problem}. Set --resilience-history to "
            "another directory, or to off. Checks and reports of the test have the whole history"
        ),
        stacklevel=1,
    )
