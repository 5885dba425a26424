"""The table of options, with a row for each, and the values that a run gives them.

A value comes from the command line, else from the environment, else from the ini file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pytest

from .backends import BUILT_IN
from .backends.settings import POSTGRES_IMAGE, REDIS_IMAGE, TOXIPROXY_IMAGE, Settings

if TYPE_CHECKING:
    from .backends.registry import BackendFactory, SelectedBackend

PREFIX = "PYTEST_RESILIENCE_"
VARIABLES = ("postgres_bin", "redis_bin")  # read from the environment only, by the embedded backend
NO_DIRECTORY = ("", "0", "1", "true", "false", "yes", "no", "on", "none")  # meant as a switch, which "off" is
BOOLEANS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


# No dataclass: every run of pytest imports this file, and a dataclass takes half a millisecond to make.
class Option(NamedTuple):
    """One option. Command line, environment, ini, `Options`, messages and the README's table follow from it.

    Args:
        name: its name in Python and in the ini file, without "resilience_".
        kind: the type of its value. A "directory" may be "off", "hosts" are separated by commas or spaces, and a "command" is a flag of
            the command line only.
        help: what it is for, as a noun phrase or an imperative.
        metavar: the placeholder of its value in the help.
        choices: the allowed values of a "choice"; backends of plugins are allowed too.
        default: the value without the option; None for none.
        default_text: the default in words, where it is not a value.
        backends: the backends that read it; empty if it concerns all.
    """

    name: str
    kind: Literal["choice", "integer", "flag", "text", "hosts", "directory", "command"]
    help: str
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    default: Any = None
    default_text: str = ""
    backends: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """The option of the command line."""
        return f"--resilience-{self.name.replace('_', '-')}"

    @property
    def variable(self) -> str:
        """The environment variable."""
        return f"{PREFIX}{self.name.upper()}"

    @property
    def ini(self) -> str:
        """The option of the ini file."""
        return f"resilience_{self.name}"

    @property
    def full_help(self) -> str:
        """The help text with the allowed values and the default."""
        default = self.default_text or (self.default if isinstance(self.default, str) else "")
        values = f": {', '.join(self.choices)}" if self.choices else ""
        return f"{self.help}{values}{f' (default: {default})' if default else ''}"

    def parse(self, value: Any, source: str, more_choices: tuple[str, ...] = ()) -> Any:
        """Return the value of an option from its text.

        Args:
            value: as the user gave it; a bool from the command line.
            source: the origin of the value, for messages.
            more_choices: allowed values beside those of the row.

        Raises:
            pytest.UsageError: the value is not allowed.
        """
        if self.kind == "choice":
            choices = (*self.choices, *more_choices)
            if value in choices:
                return str(value)
            from .wording import did_you_mean

            hint = did_you_mean(value, choices)
            raise pytest.UsageError(f"{source} must be one of {', '.join(choices)}, got {value!r}{hint}")
        if self.kind == "integer":
            try:
                return int(str(value))
            except ValueError:
                raise pytest.UsageError(f"{source} must be an integer, got {value!r}") from None
        if self.kind == "directory" and str(value).lower() in NO_DIRECTORY:
            raise pytest.UsageError(f"{source} must be a directory or off, got {value!r}")
        if self.kind == "flag":
            if str(value).lower() not in BOOLEANS:
                raise pytest.UsageError(f"{source} must be true or false, got {value!r}")
            return BOOLEANS[str(value).lower()]
        if self.kind == "hosts":
            return _hosts(str(value), source)
        return str(value)


TABLE = (
    Option(
        "backend",
        "choice",
        "where Postgres, Redis and the proxy come from",
        metavar="NAME",
        choices=("auto", *BUILT_IN),
        default="auto",
    ),
    Option(
        "backends", "command", "print which backends are usable here and what each of them can inject, and run no test"
    ),
    Option(
        "seed",
        "integer",
        "the seed of all random choices",
        metavar="INTEGER",
        default_text="drawn, and printed in the header",
    ),
    Option("strict", "flag", "treat a test whose fault affected nothing (VACUOUS) as an error", default=False),
    Option(
        "profile",
        "choice",
        "for how long generated tests search and shrink",
        metavar="NAME",
        choices=("dev", "ci", "soak"),
        default_text="dev; ci where CI is set",
    ),
    Option(
        "replay",
        "text",
        "play the schedule of a file N times (10) and nothing else; the exit code is 1 if it fails at all",
        metavar="FILE[:N]",
    ),
    Option(
        "leaks",
        "choice",
        "how resources that a test leaked (LEAK) are treated",
        metavar="HOW",
        choices=("report", "error", "off"),
        default="report",
    ),
    Option(
        "history",
        "directory",
        "the directory to which the history of each test is written while it runs, or off",
        metavar="DIRECTORY",
        default=".resilience/history",
    ),
    Option(
        "hosts",
        "hosts",
        "the hosts beside loopback to which TCP systems may connect, such as api.test,10.0.0.7",
        metavar="HOSTS",
        default=(),
        default_text="none",
    ),
    Option(
        "postgres_image",
        "text",
        "the image that the docker backend runs as Postgres",
        metavar="IMAGE",
        default=POSTGRES_IMAGE,
        backends=("docker",),
    ),
    Option(
        "redis_image",
        "text",
        "the image that the docker backend runs as Redis",
        metavar="IMAGE",
        default=REDIS_IMAGE,
        backends=("docker",),
    ),
    Option(
        "toxiproxy_image",
        "text",
        "the image that the docker backend runs as Toxiproxy",
        metavar="IMAGE",
        default=TOXIPROXY_IMAGE,
        backends=("docker",),
    ),
    Option(
        "proxy",
        "choice",
        "the proxy before the containers of the docker backend: the real Toxiproxy, or that of this package",
        metavar="NAME",
        choices=("toxiproxy", "ours"),
        default="toxiproxy",
        backends=("docker",),
    ),
    Option(
        "tls",
        "flag",
        "have the embedded servers reached by TLS, with a certificate authority of the session",
        default=False,
        backends=("embedded",),
    ),
    Option(
        "toxiproxy",
        "text",
        "the API of the external backend's Toxiproxy, such as http://127.0.0.1:8474",
        metavar="URL",
        backends=("external",),
    ),
    Option(
        "toxiproxy_ports",
        "text",
        "the ports on which the external backend's proxies may listen",
        metavar="FIRST-LAST",
        default_text="any",
        backends=("external",),
    ),
    Option(
        "postgres_upstream",
        "text",
        "Postgres as the external Toxiproxy reaches it: host:port, or a URL with user and password",
        metavar="ADDRESS",
        backends=("external",),
    ),
    Option(
        "redis_upstream",
        "text",
        "Redis as the external Toxiproxy reaches it: host:port, or a URL with user and password",
        metavar="ADDRESS",
        backends=("external",),
    ),
)
VALUES = tuple(option for option in TABLE if option.kind != "command")


def _hosts(value: str, source: str) -> tuple[str, ...]:
    from .hosts import EXPECTED_HOST, normalized_host

    names = value.replace(",", " ").split()
    wrong = [name for name in names if normalized_host(name) is None]
    if wrong:
        raise pytest.UsageError(f"{source} must be hosts, each {EXPECTED_HOST}, got {wrong[0]!r}")
    return tuple(names)


class Given:
    """A value as the user gave it, and its origin.

    Args:
        value: the text; a bool from the command line.
        source: the origin, for messages, such as "--resilience-seed".
        from_project: True if the ini file gave it, which belongs to the project and not to this run.
    """

    def __init__(self, value: Any, source: str, *, from_project: bool) -> None:
        self.value = value
        self.source = source
        self.from_project = from_project

    def __repr__(self) -> str:
        return f"<Given by {self.source}>"  # the value may have a password


class Options:
    """The options of one run.

    Attributes:
        backend: "auto", "embedded", "docker", "external" or the name of a plugin's backend.
        seed: the number that all random choices of the run follow from.
        strict: True if a vacuous test is an error.
        profile: the profile of generated tests: "dev", "ci", "soak", or None for the default.
        replay: the replay file to play and nothing else, as FILE or FILE:N; None for none.
        leaks: how leaked resources are treated: "report", "error" or "off".
        history: the directory of histories, relative to the rootdir, or "off".
        hosts: the hosts beside loopback to which TCP systems may connect.
        settings: the settings of the backends.
        plugin_backends: the backends of plugins, by name.
    """

    backend: str
    seed: int
    strict: bool
    profile: str | None
    replay: str | None
    leaks: str
    history: str
    hosts: tuple[str, ...]

    def __init__(self, given: Mapping[str, Given], plugin_backends: Mapping[str, BackendFactory]) -> None:
        self.plugin_backends = plugin_backends
        self._given = given
        backends = tuple(plugin_backends)
        settings: dict[str, Any] = {}
        for option in VALUES:
            found = given.get(option.name)
            more_choices = backends if option.name == "backend" else ()
            value = option.parse(found.value, found.source, more_choices) if found is not None else option.default
            if option.name not in Settings._fields:
                setattr(self, option.name, value)
            elif found is not None:
                settings[option.name] = value
        self.settings = Settings(**settings)

    @property
    def is_configured(self) -> bool:
        """True if the user gave any option, in any way."""
        return bool(self._given)

    @property
    def backend_for_this_run(self) -> bool:
        """True if the command line or the environment named the backend, and not the project's configuration."""
        return "backend" in self._given and not self._given["backend"].from_project

    def select_backend(self) -> SelectedBackend:
        """Return the backend of this run, with the reason for it.

        Raises:
            BackendUnavailable: the backend can't be used with these settings.
        """
        from .backends.registry import select_backend

        return select_backend(self.backend, self.settings, self.plugin_backends)

    def require_backend(self) -> None:
        """Check that the backend that the user named is available here.

        Raises:
            pytest.UsageError: it is not; the message has the reason and what to install or to set.
        """
        if "backend" not in self._given or self.backend == "auto":
            return
        from .backends.registry import unavailable_reason

        if reason := unavailable_reason(self.backend, self.settings, self.plugin_backends):
            raise pytest.UsageError(f"{self._given['backend'].source}={self.backend}: {reason}")

    def warn_of_ignored(self, config: pytest.Config, backend: str) -> None:
        """Warn of each option that the user gave and that a built-in backend does not read."""
        for option in VALUES:
            found = self._given.get(option.name)
            if found is not None and option.backends and backend in BUILT_IN and backend not in option.backends:
                readers = " and ".join(option.backends)
                _warn(config, f"{found.source} is ignored: the backend is {backend}, and {readers} reads it")


OPTIONS: pytest.StashKey[Options] = pytest.StashKey()
SELECTED_BACKEND: pytest.StashKey[SelectedBackend] = pytest.StashKey()


def register(parser: pytest.Parser) -> None:
    """Declare the options of the command line and of the ini file."""
    group = parser.getgroup("resilience", "resilience: real servers behind proxies, and faults that heal")
    for option in TABLE:
        if option.kind in ("flag", "command"):
            default = None if option.kind == "flag" else False
            group.addoption(option.flag, action="store_true", default=default, help=option.full_help)
        else:
            group.addoption(option.flag, metavar=option.metavar, default=None, help=option.full_help)
    for option in VALUES:
        parser.addini(option.ini, f"default of {option.flag}", default=None)


def load(config: pytest.Config) -> Options:
    """Read the options once, before the first test.

    Raises:
        pytest.UsageError: a value is not allowed; the message has its origin and the allowed values.
    """
    plugin_backends = _plugin_backends(config)
    _warn_of_unknown_variables(config)
    given = {option.name: found for option in VALUES if (found := _lookup(config, option)) is not None}
    config.stash[OPTIONS] = options = Options(given, plugin_backends)
    worker = getattr(config, "workerinput", None)
    if worker is not None and "resilience_seed" in worker:
        options.seed = int(worker["resilience_seed"])  # the controller has drawn one seed for all workers
    elif "seed" not in given:
        options.seed = int.from_bytes(os.urandom(4))
    if "history" in given and (config.rootpath / options.history).is_file():
        raise pytest.UsageError(
            f"{given['history'].source} must be a directory or off, and {options.history!r} is a file"
        )
    if options.backend != "auto" and worker is None:
        options.warn_of_ignored(config, options.backend)
    return options


def options_of(config: pytest.Config) -> Options:
    """Return the options of this run."""
    return config.stash[OPTIONS]


def selected_backend(config: pytest.Config) -> SelectedBackend:
    """Return the backend of this run. The first call selects it: the header's, or that of the first test that needs one."""
    if SELECTED_BACKEND not in config.stash:
        options = options_of(config)
        config.stash[SELECTED_BACKEND] = selected = options.select_backend()
        if options.backend == "auto" and getattr(config, "workerinput", {}).get("workerid", "gw0") == "gw0":
            options.warn_of_ignored(config, selected.name)
    return config.stash[SELECTED_BACKEND]


def describe(config: pytest.Config) -> str:
    """Return the line with the backend of a run and the reason for it, the versions and the seed."""
    return f"resilience: {selected_backend(config).describe()}, seed {options_of(config).seed}"


def _lookup(config: pytest.Config, option: Option) -> Given | None:
    """Return the value of an option from the command line, else the environment, else the ini file, or None."""
    value = config.getoption(option.ini)
    if value is not None:
        return Given(value, option.flag, from_project=False)
    if os.environ.get(option.variable):
        return Given(os.environ[option.variable], f"the environment's {option.variable}", from_project=False)
    value = config.getini(option.ini)
    return None if value in (None, "") else Given(value, f"the ini option {option.ini}", from_project=True)


def _warn(config: pytest.Config, text: str) -> None:
    try:
        config.issue_config_time_warning(pytest.PytestConfigWarning(f"pytest-resilience: {text}"), stacklevel=2)
    except pytest.PytestConfigWarning as warning:  # where warnings are errors
        raise pytest.UsageError(str(warning)) from None


def _warn_of_unknown_variables(config: pytest.Config) -> None:
    """Warn of a variable with a name close to that of an option, which would have no effect without a message."""
    if hasattr(config, "workerinput"):
        return  # the controller has warned
    known = [*(option.variable for option in VALUES), *(f"{PREFIX}{name.upper()}" for name in VARIABLES)]
    for name in os.environ:
        if name.startswith(PREFIX) and name not in known:
            from .wording import close_matches, suggestion

            rest = name.removeprefix(PREFIX)
            near = close_matches(rest, [each.removeprefix(PREFIX) for each in known])
            if hint := suggestion(f"{PREFIX}{each}" for each in near):
                _warn(config, f"the environment's {name} is not read{hint}")


def _plugin_backends(config: pytest.Config) -> dict[str, BackendFactory]:
    """Return the backends that plugins add by the hook, by name.

    Raises:
        pytest.UsageError: two have one name.
    """
    found: dict[str, BackendFactory] = {}
    for backends in config.hook.pytest_resilience_backends():
        for name, factory in backends.items():
            if name == "auto" or name in BUILT_IN or name in found:
                raise pytest.UsageError(f"pytest_resilience_backends: there is a backend {name!r} already")
            found[name] = factory
    return found
