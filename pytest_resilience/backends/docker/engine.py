"""A small client of a Docker engine. It finds the engine and its images, and removes what a session left in it.

pytest's header looks for engine and images in every run, so this file imports little (docker-py takes 435 ms). The supervisor runs the
removal by `python -I -S` when a session ends, also if it is killed, so this file imports little of the package either.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from ...clients.receive import receive_all
from ...wire import http

if TYPE_CHECKING:
    import threading

ANSWER_WITHIN = 1.0  # seconds for a response
REMOVE_WITHIN = 15.0  # seconds for the removal of one container; it takes 0.2 to 0.5
POLL_INTERVAL = 0.05  # seconds between two lists of containers and networks
MAX_POLLS = 300
# The engine finishes requests of a killed client, and lists the container only when it is ready. If a pending name has not appeared after
# this many polls, the request was never sent.
POLLS_FOR_PENDING = 16

# Labels of containers and networks.
SESSION = "pytest-resilience.session"  # the name of the session
OWNER = "pytest-resilience.owner"  # the file that the process of the session keeps locked
MACHINE = "pytest-resilience.machine"  # the machine of that file


class EngineUnavailable(Exception):
    """No engine answers. The message has the reason in a few words."""


class Engine:
    """A Docker engine of this machine. Each request opens a connection.

    Args:
        url: "unix:///var/run/docker.sock" or "tcp://127.0.0.1:2375".

    Raises:
        EngineUnavailable: the URL is not one of this machine.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        parts = urlsplit(url)
        if parts.scheme == "unix":
            self._path: str | None = parts.path
        elif parts.scheme == "tcp" and parts.hostname in ("127.0.0.1", "localhost", "::1") and parts.port:
            self._path = None
            self._address = parts.hostname, parts.port
        else:
            raise EngineUnavailable(
                f"the engine at {url} is not on this machine, so its ports are not on this loopback"
            )

    def request(self, method: str, path: str, *, within: float = ANSWER_WITHIN) -> http.HttpResponse:
        """Send a request and return the response.

        Args:
            method: the HTTP method.
            path: the path, with query.
            within: seconds for each system call.

        Raises:
            EngineUnavailable: no engine answers in time.
        """
        try:
            with self._connect(within) as connection:
                connection.sendall(http.request(method, path, "docker"))
                data = receive_all(connection)
        except PermissionError:
            raise EngineUnavailable(f"this user may not use {self.url}") from None
        except FileNotFoundError:
            raise EngineUnavailable(f"there is no {self._path}") from None
        except ConnectionRefusedError:
            raise EngineUnavailable(f"nothing listens at {self.url}") from None
        except OSError as error:
            raise EngineUnavailable(f"{self.url} does not answer ({type(error).__name__})") from None
        try:
            return http.parse_response(data)
        except ValueError:
            raise EngineUnavailable(f"{self.url} answers, but not as an engine does") from None

    def _connect(self, within: float) -> socket.socket:
        if self._path is None:
            return socket.create_connection(self._address, within)
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(within)
            connection.connect(self._path)
        except BaseException:
            connection.close()
            raise
        return connection

    def missing_images(self, images: list[str]) -> list[str]:
        """Return the images that the engine does not have."""
        return [
            image for image in images if self.request("GET", f"/images/{quote(image, safe='/:@')}/json").status != 200
        ]

    def bridge_gateways(self) -> list[str]:
        """Return the gateways of the engine's default network, which exists before a session creates its own."""
        response = self.request("GET", "/networks/bridge")
        if response.status != 200:
            return []
        return [each["Gateway"] for each in response.json["IPAM"]["Config"] or [] if each.get("Gateway")]

    def find_labelled(self, kind: str, label: str) -> list[dict[str, Any]]:
        """Return the containers or networks with a label.

        Args:
            kind: "containers" or "networks".
            label: "name" or "name=value".
        """
        filters = quote(json.dumps({"label": [label]}))
        path = f"/containers/json?all=1&filters={filters}" if kind == "containers" else f"/networks?filters={filters}"
        found: list[dict[str, Any]] = self.request("GET", path, within=5.0).json
        return found

    def remove(self, session: str, pending_names: Iterable[str] = ()) -> None:
        """Remove all containers and networks of a session, and return when none is left.

        Args:
            session: the name of the session.
            pending_names: names of containers and networks that the engine may still be creating for this session.
        """
        pending = set(pending_names)
        deletions: dict[str, threading.Thread] = {}
        empty_polls = 0
        for _ in range(MAX_POLLS):
            paths, names = self._list_session(session)
            pending -= names
            self._delete_parallel(paths, deletions)
            empty_polls = 0 if paths else empty_polls + 1
            if empty_polls > (POLLS_FOR_PENDING if pending else 0):
                return
            _pause(POLL_INTERVAL)

    def _list_session(self, session: str) -> tuple[list[str], set[str]]:
        """Return the paths to delete first, containers before networks, and the names of all containers and networks."""
        label = f"{SESSION}={session}"
        containers, networks = (self.find_labelled(kind, label) for kind in ("containers", "networks"))
        names = {name.lstrip("/") for each in containers for name in each["Names"]}
        paths = [f"/containers/{each['Id']}?force=1&v=1" for each in containers]
        paths = paths or [f"/networks/{each['Id']}" for each in networks]
        return paths, names | {each["Name"] for each in networks}

    def _delete_parallel(self, paths: list[str], deletions: dict[str, threading.Thread]) -> None:
        """Start a thread for each path that has none, or that is still listed after its thread has ended.

        Args:
            paths: the paths to delete.
            deletions: the threads by path, to be updated.
        """
        import threading

        for path in paths:
            if path not in deletions or not deletions[path].is_alive():
                deletions[path] = threading.Thread(target=self._delete, args=(path,), daemon=True)
                deletions[path].start()

    def _delete(self, path: str) -> None:
        try:
            self.request("DELETE", path, within=REMOVE_WITHIN)
        except EngineUnavailable as problem:
            sys.stderr.write(f"{path}: {problem}\n")


def _pause(seconds: float) -> None:
    import select  # `time` is for clock.py, which this file can't import

    select.select([], [], [], seconds)


def candidate_urls(environ: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Return the URL in DOCKER_HOST, or otherwise the usual URLs of an engine on this machine."""
    if named := environ.get("DOCKER_HOST"):
        yield named
        return
    home, runtime = environ.get("HOME", ""), environ.get("XDG_RUNTIME_DIR", "")
    candidates = ["/var/run/docker.sock", f"{runtime}/docker.sock", f"{home}/.docker/run/docker.sock"]
    found = [path for path in candidates if path.count("/") > 1 and os.path.exists(path)]  # noqa: PTH110  # no pathlib here
    yield from (f"unix://{path}" for path in found or candidates[:1])


def find_engine(environ: Mapping[str, str] = os.environ) -> Engine:
    """Return an engine of this machine that answers.

    Raises:
        EngineUnavailable: no engine answers. The message has the reason.
    """
    problem = EngineUnavailable("no usual URL")
    for url in candidate_urls(environ):
        try:
            engine = Engine(url)
            if engine.request("GET", "/_ping").status == 200:
                return engine
            problem = EngineUnavailable(f"{url} answers, but not as an engine does")
        except EngineUnavailable as error:
            problem = error
    raise problem


def main(url: str, session: str, pending_dir: str) -> None:
    """Remove all containers and networks of a session that has ended.

    Args:
        url: the URL of the engine.
        session: the name of the session.
        pending_dir: a directory with a file for each container or network that the engine may still be creating, with its name.
    """
    Engine(url).remove(session, os.listdir(pending_dir) if os.path.isdir(pending_dir) else ())  # noqa: PTH112, PTH208  # no pathlib here
