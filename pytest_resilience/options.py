"""The switches: command line, then environment, then ini; read once into a frozen `Options`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from .backends import BUILT_IN
from .backends.settings import POSTGRES_IMAGE, REDIS_IMAGE, TOXIPROXY_IMAGE, Settings

if TYPE_CHECKING:
    from .backends.registry import Factory, SelectedBackend

LEAKS = ("report", "error", "off")
CHOICES = ("backend", "seed", "strict", "leaks")
PREFIX = "PYTEST_RESILIENCE_"
INI = "the ini option"
READERS = {  # option: the backends that read it; "auto" looks for its images in Docker before it takes embedded
    "postgres_image": ("docker",),
    "redis_image": ("docker",),
    "toxiproxy_image": ("docker",),
    "toxiproxy": ("external",),
    "toxiproxy_ports": ("external",),
    "postgres_upstream": ("external",),
    "redis_upstream": ("external",),
}
VARIABLES = ("postgres_bin", "redis_bin")  # of the environment only
TEXTS = {  # option: what it is given as, and what it is for
    "postgres_image": ("IMAGE", f"what the docker backend runs as Postgres (default: {POSTGRES_IMAGE})"),
    "redis_image": ("IMAGE", f"what it runs as Redis (default: {REDIS_IMAGE})"),
    "toxiproxy_image": ("IMAGE", f"what it runs as Toxiproxy (default: {TOXIPROXY_IMAGE})"),
    "toxiproxy": ("URL", "the API of the external backend's Toxiproxy, such as http://127.0.0.1:8474"),
    "toxiproxy_ports": ("FIRST-LAST", "the ports its proxies may listen on, where not all of them can be reached"),
    "postgres_upstream": (
        "ADDRESS",
        "host:port of Postgres as that Toxiproxy reaches it, or a URL with user and password",
    ),
    "redis_upstream": ("ADDRESS", "host:port of Redis as that Toxiproxy reaches it, or a URL with user and password"),
}


class Options(NamedTuple):
    """What a run was asked for.

    Args:
        backend: "auto", "embedded", "docker", "external" or the name of a third party's.
        backend_source: where the backend was named, such as "--resilience-backend"; None where it was not.
        named_for_this_run: whether that was the command line or the environment, and not the project's configuration.
        is_configured: whether any option was given, in any way.
        seed: the number that all random choices of the run follow from; drawn when nobody gave one.
        strict: whether a vacuous test is an error.
        leaks: what is done about what a test left behind: "report", "error" or "off".
        settings: what backends are told.
        plugin_backends: the backends of third parties.
    """

    backend: str
    backend_source: str | None
    named_for_this_run: bool
    is_configured: bool
    seed: int
    strict: bool
    leaks: str
    settings: Settings
    plugin_backends: Mapping[str, Factory]

    def select_backend(self) -> SelectedBackend:
        """The backend of this run, and why it is this one.

        Raises:
            BackendUnavailable: it can't be used as it was asked for.
        """
        from .backends.registry import choose

        return choose(self.backend, self.settings, self.plugin_backends)

    def require_backend(self) -> None:
        """See whether the backend that was named can be had here.

        Raises:
            pytest.UsageError: it can't; says why, and what to install or to say.
        """
        if self.backend_source is None or self.backend == "auto":
            return
        from .backends.registry import missing

        if why := missing(self.backend, self.settings, self.plugin_backends):
            raise pytest.UsageError(f"{self.backend_source}={self.backend}: {why}")


OPTIONS: pytest.StashKey[Options] = pytest.StashKey()
SELECTED_BACKEND: pytest.StashKey[SelectedBackend] = pytest.StashKey()


def register(parser: pytest.Parser) -> None:
    """Declare the options and their ini twins."""
    group = parser.getgroup("resilience", "resilience: real servers behind proxies, and faults that heal")
    group.addoption(
        "--resilience-backend",
        metavar="NAME",
        default=None,
        help=f"where Postgres, Redis and the proxy come from: auto, {', '.join(BUILT_IN)} (default: auto)",
    )
    group.addoption(
        "--resilience-backends",
        action="store_true",
        default=False,
        help="print which backends are usable here and what each can inject, and run nothing",
    )
    group.addoption(
        "--resilience-seed",
        metavar="INTEGER",
        default=None,
        help="the seed of all random choices (default: drawn, and printed in the header)",
    )
    group.addoption(
        "--resilience-strict",
        action="store_true",
        default=None,
        help="a test whose fault touched nothing (VACUOUS) is an error",
    )
    group.addoption(
        "--resilience-leaks",
        metavar="WHAT",
        default=None,
        help=f"what is done about what a test left behind (LEAK): {', '.join(LEAKS)} (default: {LEAKS[0]})",
    )
    for name, (metavar, text) in TEXTS.items():
        group.addoption(f"--resilience-{name.replace('_', '-')}", metavar=metavar, default=None, help=text)
        parser.addini(f"resilience_{name}", f"default of --resilience-{name.replace('_', '-')}", default=None)
    parser.addini("resilience_backend", "default of --resilience-backend", default=None)
    parser.addini("resilience_seed", "default of --resilience-seed", default=None)
    parser.addini("resilience_strict", "default of --resilience-strict", default=None)
    parser.addini("resilience_leaks", "default of --resilience-leaks", default=None)


def load(config: pytest.Config) -> Options:
    """Read the options once, before the first test.

    Raises:
        pytest.UsageError: a value is not allowed; names where it came from and what is.
    """
    plugin_backends = _plugin_backends(config)
    _warn_of_unknown_variables(config)
    asked = _lookup(config, "backend", os.environ)
    config.stash[OPTIONS] = given = Options(
        backend=_backend(config, plugin_backends),
        backend_source=asked[1] if asked is not None else None,
        named_for_this_run=asked is not None and not asked[1].startswith(INI),
        is_configured=any(_lookup(config, name, os.environ) is not None for name in (*TEXTS, *CHOICES)),
        seed=_seed(config),
        strict=_strict(config),
        leaks=_leaks(config),
        settings=_settings(config),
        plugin_backends=plugin_backends,
    )
    if given.backend != "auto" and not hasattr(config, "workerinput"):
        _warn_of_ignored(config, given.backend)
    return given


def options_of(config: pytest.Config) -> Options:
    """The options of this run."""
    return config.stash[OPTIONS]


def selected_backend(config: pytest.Config) -> SelectedBackend:
    """The backend of this run, chosen when it is first asked for: by the header, or by the first test that needs one."""
    if SELECTED_BACKEND not in config.stash:
        given = options_of(config)
        config.stash[SELECTED_BACKEND] = chosen = given.select_backend()
        if given.backend == "auto" and getattr(config, "workerinput", {}).get("workerid", "gw0") == "gw0":
            _warn_of_ignored(config, chosen.name)
    return config.stash[SELECTED_BACKEND]


def describe(config: pytest.Config) -> str:
    """Return the line that says what a run uses: its backend and why, the versions, the seed."""
    return f"resilience: {selected_backend(config).describe()}, seed {options_of(config).seed}"


def _warn_of_ignored(config: pytest.Config, backend: str) -> None:
    """Warn of each option that was given and that the backend does not read."""
    for name, readers in READERS.items():
        found = _lookup(config, name, os.environ)
        if found is not None and backend in BUILT_IN and backend not in readers:
            _warn(config, f"{found[1]} is ignored: the backend is {backend}, and {' and '.join(readers)} reads it")


def _warn(config: pytest.Config, text: str) -> None:
    try:
        config.issue_config_time_warning(pytest.PytestConfigWarning(f"pytest-resilience: {text}"), stacklevel=2)
    except pytest.PytestConfigWarning as warning:  # where warnings are errors
        raise pytest.UsageError(str(warning)) from None


def _lookup(config: pytest.Config, name: str, environ: Mapping[str, str]) -> tuple[Any, str] | None:
    """The value that somebody gave and where, the nearest first."""
    value = config.getoption(f"resilience_{name}")
    if value is not None:
        return value, f"--resilience-{name.replace('_', '-')}"
    variable = f"{PREFIX}{name.upper()}"
    if environ.get(variable):
        return environ[variable], f"the environment's {variable}"
    value = config.getini(f"resilience_{name}")
    return None if value in (None, "") else (value, f"{INI} resilience_{name}")


def _warn_of_unknown_variables(config: pytest.Config) -> None:
    """A variable that is one letter off would be ignored without a word."""
    if hasattr(config, "workerinput"):
        return  # the controller has said so
    known = [name.upper() for name in (*TEXTS, *CHOICES, *VARIABLES)]
    given = [name.removeprefix(PREFIX) for name in os.environ if name.startswith(PREFIX)]
    for name in given:
        if name not in known:
            from .wording import close_matches, suggestion

            if hint := suggestion(f"{PREFIX}{each}" for each in close_matches(name, known)):
                _warn(config, f"the environment's {PREFIX}{name} is not read{hint}")


def _plugin_backends(config: pytest.Config) -> dict[str, Factory]:
    """What third parties add, by the hook."""
    found: dict[str, Factory] = {}
    for backends in config.hook.pytest_resilience_backends():
        for name, factory in backends.items():
            if name == "auto" or name in BUILT_IN or name in found:
                raise pytest.UsageError(f"pytest_resilience_backends: there is a backend {name!r} already")
            found[name] = factory
    return found


def _backend(config: pytest.Config, plugin_backends: Mapping[str, Factory]) -> str:
    given = _lookup(config, "backend", os.environ)
    if given is None:
        return "auto"
    value, where = given
    return _one_of(value, ("auto", *BUILT_IN, *plugin_backends), where)


def _one_of(value: Any, known: tuple[str, ...], where: str) -> str:
    if value not in known:
        from .wording import did_you_mean

        raise pytest.UsageError(f"{where} must be one of {', '.join(known)}, got {value!r}{did_you_mean(value, known)}")
    return str(value)


def _settings(config: pytest.Config) -> Settings:
    given = {name: _lookup(config, name, os.environ) for name in TEXTS}
    return Settings(**{name: str(found[0]) for name, found in given.items() if found is not None})


def _seed(config: pytest.Config) -> int:
    worker = getattr(config, "workerinput", None)
    if worker is not None and "resilience_seed" in worker:
        return int(worker["resilience_seed"])  # one seed for all workers, drawn by the controller
    given = _lookup(config, "seed", os.environ)
    if given is None:
        return int.from_bytes(os.urandom(4))
    value, where = given
    try:
        return int(str(value))
    except ValueError:
        raise pytest.UsageError(f"{where} must be an integer, got {value!r}") from None


def _leaks(config: pytest.Config) -> str:
    given = _lookup(config, "leaks", os.environ)
    if given is None:
        return LEAKS[0]
    value, where = given
    return _one_of(value, LEAKS, where)


def _strict(config: pytest.Config) -> bool:
    given = _lookup(config, "strict", os.environ)
    if given is None:
        return False
    value, where = given
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if isinstance(value, bool):
        return value
    if str(value).lower() not in words:
        raise pytest.UsageError(f"{where} must be true or false, got {value!r}")
    return words[str(value).lower()]
