"""The services and systems that the fixtures of a project describe for one test."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from .errors import SetupError
from .stash import FACTORIES

if TYPE_CHECKING:
    from .resilience import Resilience
    from .stack import Stack
    from .targets.service_spec import Service

MARK = "_resilience_service"  # the attribute of a fixture that describes a service
FIXTURE_TYPES = (
    FunctionType,
    type(pytest.fixture(lambda: None)),
)  # the second is a class of its own from pytest 8.4 on


class ServiceFactory:
    """A service that a fixture describes.

    Args:
        name: the name of the service.
        describe: returns its description, given the stack. It is called once for each stack.
        is_upstream: True if the service runs only where no other fixture describes it, because it is the upstream of a TCP system.

    Raises:
        SetupError: an argument is invalid.
    """

    def __init__(self, name: str, describe: Callable[[Stack], Service], *, is_upstream: bool = False) -> None:
        if not callable(describe):
            raise SetupError(
                f"factories.service({name!r}, ...) takes a function of the stack, such as lambda stack: Service([...]); "
                f"got a {type(describe).__name__}"
            )
        check_name(name)
        self.name = name
        self.is_upstream = is_upstream
        self._describe = describe
        self._described: tuple[Stack, Service] | None = None

    def describe(self, stack: Stack) -> Service:
        """Return the description for a stack.

        Raises:
            SetupError: the function has returned something else.
        """
        if self._described is None or self._described[0] is not stack:
            self._described = stack, checked(self._describe(stack), f"the function of factories.service({self.name!r})")
        return self._described[1]


class SystemFactory(NamedTuple):
    """A system, such as a MySQL, that a fixture describes. It starts when a test first uses it.

    Args:
        name: the name of the system.
        add: returns its target for a test.
    """

    name: str
    add: Callable[[Resilience], object]


def check_name(name: object) -> None:
    """Check the name of a service.

    Raises:
        SetupError: it is malformed, or that of another attribute of the fixture `resilience`.
    """
    from .resilience import Resilience
    from .step_faults import is_target_name

    if not isinstance(name, str) or not is_target_name(name):
        raise SetupError(f"{name!r} can't be the name of a service: lower case letters, digits and _ only, 31 at most")
    taken = hasattr(Resilience, name) or name in (
        *Resilience.__annotations__,
        "history",
        "tally",
        "properties",
        "process",
    )
    if taken and name != "service":
        raise SetupError(f"{name!r} can't be the name of a service, because `resilience.{name}` is something else")


def checked(value: object, source: str) -> Service:
    """Return a description.

    Args:
        value: the description.
        source: its origin, for the error.

    Raises:
        SetupError: it is none.
    """
    from .targets.service_spec import Service

    if not isinstance(value, Service):
        raise SetupError(f"{source} must return a pytest_resilience.Service, got a {type(value).__name__}")
    return value


def services_of(request: pytest.FixtureRequest, stack: Stack, described: object) -> dict[str, Service]:
    """Return the services of a test by name, those of the fixture `resilience_service` first.

    Args:
        request: the request of the test.
        stack: the stack.
        described: the value of `resilience_service`.

    Raises:
        SetupError: a description or a name is invalid, or a name is there twice.
    """
    services = _by_name(described)
    found = (each for each in _factories(request) if isinstance(each, ServiceFactory))
    for factory in sorted(found, key=lambda factory: factory.is_upstream):
        described = factory.describe(stack)
        if factory.is_upstream and any(each is described for each in services.values()):
            continue
        if factory.name in services:
            raise SetupError(f"there are two services with the name {factory.name!r}")
        services[factory.name] = described
    return services


def _by_name(described: Any) -> dict[str, Service]:
    """Return the services that the fixture `resilience_service` has returned."""
    if described is None:
        return {}
    if not isinstance(described, Mapping):
        from .targets.service_spec import Service

        if not isinstance(described, Service):
            kind = type(described).__name__
            raise SetupError(
                "the fixture resilience_service must return a dict of services by name, a pytest_resilience.Service or None, "
                f"got a {kind}"
            )
        return {"service": described}
    for name in described:
        check_name(name)
    return {name: checked(each, f"the fixture resilience_service, for {name!r},") for name, each in described.items()}


def systems_of(request: pytest.FixtureRequest) -> dict[str, Callable[[Resilience], object]]:
    """Return the functions that return the systems of a test, by name."""
    return {each.name: each.add for each in _factories(request) if isinstance(each, SystemFactory)}


def _factories(request: pytest.FixtureRequest) -> Iterable[ServiceFactory | SystemFactory]:
    """Return the factories whose fixtures the test could request, in the order of their definition.

    The services run for each test, also if it requests none of their fixtures, because the system under test consists of all of them.
    """
    found: dict[str, ServiceFactory | SystemFactory] = {}
    for plugin in request.config.pluginmanager.get_plugins():  # conftest.py files are plugins too, the outer ones first
        factories = _factories_in(plugin, request.config) if inspect.ismodule(plugin) else {}
        if factories and _is_visible(plugin, request.node.path):
            found |= factories
    module = getattr(request.node, "module", None)
    if module is not None:
        found |= _factories_in(module, request.config)
    return found.values()


def _is_visible(plugin: ModuleType, path: Path) -> bool:
    """True if a test file gets the fixtures of a plugin. Those of a conftest.py are for its directory."""
    file = Path(getattr(plugin, "__file__", None) or "")
    return file.name != "conftest.py" or file.parent in path.parents


def _factories_in(module: ModuleType, config: pytest.Config) -> dict[str, ServiceFactory | SystemFactory]:
    """Return the factories of a module by the names of their fixtures."""
    known = config.stash.setdefault(FACTORIES, {})
    if module not in known:
        # Only fixtures are looked at, because a lazy object, such as `flask.request`, raises errors of its own for each attribute.
        fixtures = {name: value for name, value in list(vars(module).items()) if type(value) in FIXTURE_TYPES}
        marked = {name: getattr(value, MARK, None) for name, value in fixtures.items()}
        known[module] = {
            name: each for name, each in marked.items() if isinstance(each, ServiceFactory | SystemFactory)
        }
    return known[module]
