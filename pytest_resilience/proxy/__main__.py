"""The proxy server, `python -m pytest_resilience.proxy`, with the flags and the environment of toxiproxy-server 2.12.

The parent process waits for the log line with the API's address. So this line is written first, and heavy modules (json, h11) are
imported afterwards. The kernel holds the first client in the backlog until then.
"""

from __future__ import annotations

import _socket as so
import gc
import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from .log import Log
    from .proxy_collection import ProxyCollection

USAGE = """Usage of toxiproxy-server:
  -allow-paths
        take unix sockets and TLS files from the API, not only from the config file: every client of the API
        then reads and creates files with the rights of this process (default "false")
  -config string
        JSON file containing proxies to create on startup
  -host string
        Host for toxiproxy's API to listen on (default "localhost")
  -loopback-only
        refuse proxies that other machines could reach (default "false")
  -owner-only
        serve the API to the user who started this process and to root only, where the kernel reports users
        (Linux) (default "false")
  -port string
        Port for toxiproxy's API to listen on (default "8474")
  -proxy-metrics
        enable toxiproxy-specific prometheus metrics (default "false")
  -runtime-metrics
        enable runtime-related prometheus metrics (default "false")
  -seed int
        Seed for randomizing toxics with
  -tls-files string
        take TLS files of this directory from the API, also without -allow-paths
  -version
        return the version of Toxiproxy
"""
VERSION = "2.12.0"
_SWITCHES = ("allow-paths", "loopback-only", "owner-only", "proxy-metrics", "runtime-metrics", "version")


class _UsageError(Exception):
    """Flags that can't be read (exit code 2), or -h (no text, exit code 0)."""


def parse(arguments: Sequence[str]) -> dict[str, str]:
    """Return the flags, which have Go's syntax: `-x v`, `-x=v`, `--x`. A switch takes a value after `=` only.

    Raises:
        _Usage: with the text for the user.
    """
    values = {
        "host": "localhost",
        "port": "8474",
        "config": "",
        "seed": "",
        "tls-files": "",
        **dict.fromkeys(_SWITCHES, ""),
    }
    left = list(arguments)
    while left and left[0].startswith("-") and left[0] != "-":
        word = left.pop(0)
        if word == "--":
            break
        name, equals, value = word.removeprefix("-").removeprefix("-").partition("=")
        if name in ("h", "help"):
            raise _UsageError("")
        if name not in values:
            raise _UsageError(f"flag provided but not defined: -{name}")
        if name in _SWITCHES:
            if equals and value.lower() not in ("1", "t", "true", "0", "f", "false"):
                raise _UsageError(f'invalid boolean value "{value}" for -{name}: parse error')
            value = "" if value.lower() in ("0", "f", "false") else "true"
        elif not equals:
            if not left:
                raise _UsageError(f"flag needs an argument: -{name}")
            value = left.pop(0)
        values[name] = value
    try:
        int(values["seed"] or "0", 0)
    except ValueError:
        raise _UsageError(f'invalid value "{values["seed"]}" for flag -seed: parse error') from None
    return values


def main(*argv: str) -> int:
    """Serve until SIGTERM or SIGINT.

    Args:
        argv: the flags, without the program's name.

    Returns:
        The exit code: 0 after a signal, 1 if the API's address or the config file can't be used, 2 for wrong flags.
    """
    try:
        flags = parse(argv)
    except _UsageError as problem:
        text = str(problem)
        sys.stderr.write(f"{text}\n{USAGE}" if text else USAGE)
        return 2 if text else 0
    if flags["version"]:
        sys.stdout.write(f"toxiproxy-server version {VERSION}\n")
        return 0
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit_now)
    from .log import Log

    log = Log(os.environ.get("LOG_LEVEL", ""), _write)
    try:
        listener = _listen(flags["host"], flags["port"])
    except OSError as error:
        log.error("Failed to listen", address=f"{flags['host']}:{flags['port']}", err=str(error))
        sys.stderr.write(f"toxiproxy: cannot listen on {flags['host']}:{flags['port']}: {error.strerror or error}\n")
        return 1
    if not flags["config"]:
        _announce(log, listener)
    return _serve(flags, log, listener)


def _serve(flags: dict[str, str], log: Log, listener: so.socket) -> int:
    from .api import ApiServer
    from .event_loop import EventLoop
    from .metrics import Metrics
    from .proxy_collection import ProxyCollection
    from .refused_connections import RefusedConnectionMonitor
    from .runtime import ProxyRuntime

    loop = EventLoop(on_error=lambda error: log.error("internal error", err=f"{type(error).__name__}: {error}"))
    seed = int(flags["seed"], 0) if flags["seed"] else int.from_bytes(os.urandom(7), "big")
    log.info("Seed", seed=str(seed))
    _allow_many_descriptors()
    runtime = ProxyRuntime(loop, log, seed, RefusedConnectionMonitor(loop))
    proxies = ProxyCollection(runtime, loopback_only=bool(flags["loopback-only"]))
    if flags["config"]:
        problem = _load(flags["config"], proxies, log)
        if problem:
            log.error("Failed to populate proxies from file", config=flags["config"], err=problem)
            sys.stderr.write(f"toxiproxy: config file {flags['config']}: {problem}\n")
            return 1
    metrics = Metrics(proxies, proxy=bool(flags["proxy-metrics"]), runtime=bool(flags["runtime-metrics"]))
    api = ApiServer(
        loop,
        log,
        proxies,
        metrics.text if metrics.enabled else None,
        host=flags["host"],
        allow_paths=bool(flags["allow-paths"]),
        tls_files=flags["tls-files"],
        owner=os.geteuid() if flags["owner-only"] else None,
    )
    api.serve(listener)
    if flags["config"]:
        _announce(log, listener)
    # Connections are freed by their reference counts when they close, so the garbage collector has little to find. It runs seldom.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    _at_exit.append(proxies.remove_unix_sockets)
    loop.run()
    return 0


def _listen(host: str, port: str) -> so.socket:
    """Return the API's socket, which listens.

    Raises:
        OSError: the address can't be used.
    """
    if port and not port.isdigit():
        raise OSError(None, f"port {port!r} is no number")
    family, kind, proto, _, address = so.getaddrinfo(
        host or None, port or "0", 0, so.SOCK_STREAM, so.IPPROTO_TCP, so.AI_PASSIVE
    )[0]
    listener = so.socket(family, kind, proto)
    listener.setsockopt(so.SOL_SOCKET, so.SO_REUSEADDR, 1)
    if family == so.AF_INET6:
        listener.setsockopt(so.IPPROTO_IPV6, so.IPV6_V6ONLY, 0)
    try:
        listener.bind(address)
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


def _announce(log: Log, listener: so.socket) -> None:
    name = listener.getsockname()
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    log.announce(
        "Starting Toxiproxy HTTP server", address=f"{host}:{name[1]}", host=name[0], port=str(name[1]), version=VERSION
    )


def _load(path: str, proxies: ProxyCollection, log: Log) -> str:
    """Create the proxies of a config file. Return its error, or ""."""
    from ..wire.api_error import ApiError
    from ..wire.toxiproxy import read_proxies

    try:
        with open(path, "rb") as file:  # noqa: PTH123  # pathlib costs more to import than all else here
            bodies = read_proxies(file.read())
        for body in bodies:
            if body.unknown:
                log.warning("Unknown keys in the config file", proxy=body.name or "", keys=", ".join(body.unknown))
        proxies.populate(bodies)
    except OSError as error:
        return error.strerror or str(error)
    except ApiError as error:
        return error.message
    log.info("Populated proxies from file", config=path, proxies=str(len(bodies)))
    return ""


def _allow_many_descriptors() -> None:
    """Raise the limit of descriptors, as each connection takes two.

    The usual soft limit of 1024 protects select(), which this process uses for one low descriptor only.
    """
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for limit in (max(hard, 65536), hard):  # the first one may need privileges
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        except (OSError, ValueError):
            continue  # macOS has an upper bound, too
        return


def _write(line: str) -> None:
    from .event_loop import is_writable

    data = line.encode("utf-8", "replace")
    # A full pipe must not block all proxies, so a slow reader loses lines.
    if len(data) <= 4096 and is_writable(1):
        try:
            os.write(1, data)
        except OSError:
            pass  # the reader of the log is gone


_at_exit: list[Callable[[], None]] = []


def _exit_now(_number: int, _frame: FrameType | None) -> None:
    # Exit without the destructors of ten thousand connections: the kernel closes them.
    for call in _at_exit:
        call()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
