"""A Docker engine asked by hand: whether one answers, which images it has, and the removal of what a session left in it.

pytest's header needs the first two in every run, so nothing heavy may be loaded for them. The supervisor runs the removal when a session
ends, however it ends, by `python -I -S`: so little of the package is imported either.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from ...clients.receive import receive_all
from ...wire import http

ANSWER_WITHIN = 1.0  # seconds for a question
REMOVE_WITHIN = 15.0  # seconds for the removal of one container; it takes 0.2 to 0.5
POLL_INTERVAL = 0.05  # seconds between two looks for what is left
MAX_POLLS = 300  # how often we look at most
# The engine finishes requests of a killed client, and lists the container only when it is ready. If a pending name has not appeared after
# this many polls, the request was never sent.
POLLS_FOR_PENDING = 16

SESSION = "pytest-resilience.session"  # a label: which session it belongs to
OWNER = "pytest-resilience.owner"  # a label: the file that this session's process keeps locked
MACHINE = "pytest-resilience.machine"  # a label: where that file is


class EngineUnavailable(Exception):
    """None answers; the message says why, in a few words."""


class Engine:
    """A Docker engine of this machine. Each question takes a connection of its own.

    Args:
        url: "unix:///var/run/docker.sock" or "tcp://127.0.0.1:2375".

    Raises:
        EngineUnavailable: that is no engine of this machine.
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
            raise EngineUnavailable(f"the engine at {url} is not on this machine, so its loopback is not ours")

    def request(self, method: str, path: str, *, within: float = ANSWER_WITHIN) -> http.HttpResponse:
        """One question.

        Raises:
            EngineUnavailable: nobody answers in time.
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
            raise EngineUnavailable(f"nobody listens at {self.url}") from None
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
        """Those images that it does not have."""
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
        """Its containers or networks ("containers", "networks") with that label, "name" or "name=value"."""
        filters = quote(json.dumps({"label": [label]}))
        path = f"/containers/json?all=1&filters={filters}" if kind == "containers" else f"/networks?filters={filters}"
        found: list[dict[str, Any]] = self.request("GET", path, within=5.0).json
        return found

    def remove(self, session: str, pending_names: Iterable[str] = ()) -> None:
        """Remove all that carries the session's label; returns when nothing does.

        Args:
            session: its name.
            pending_names: names of containers and networks that the engine may be making for it still.
        """
        import threading

        label = f"{SESSION}={session}"
        pending_names = set(pending_names)
        deletions: dict[str, threading.Thread] = {}
        quiet = 0
        for _ in range(MAX_POLLS):
            containers = self.find_labelled("containers", label)
            networks = self.find_labelled("networks", label)
            pending_names -= {name.lstrip("/") for each in containers for name in each["Names"]}
            pending_names -= {each["Name"] for each in networks}
            found = [f"/containers/{each['Id']}?force=1&v=1" for each in containers]
            found = found or [f"/networks/{each['Id']}" for each in networks]
            for path in found:
                # Side by side, since each takes its time; and again when one comes back and the thing is still there.
                if path not in deletions or not deletions[path].is_alive():
                    deletions[path] = threading.Thread(target=self._delete, args=(path,), daemon=True)
                    deletions[path].start()
            quiet = 0 if found else quiet + 1
            if quiet > (POLLS_FOR_PENDING if pending_names else 0):
                return
            _pause(POLL_INTERVAL)

    def _delete(self, path: str) -> None:
        try:
            self.request("DELETE", path, within=REMOVE_WITHIN)
        except EngineUnavailable as problem:
            sys.stderr.write(f"{path}: {problem}\n")


def _pause(seconds: float) -> None:
    import select  # `time` is for clock.py, which can't be had here

    select.select([], [], [], seconds)


def candidate_urls(environ: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Where an engine of this machine may listen: the one that was named, or those that are usual."""
    if named := environ.get("DOCKER_HOST"):
        yield named
        return
    home, runtime = environ.get("HOME", ""), environ.get("XDG_RUNTIME_DIR", "")
    candidates = ["/var/run/docker.sock", f"{runtime}/docker.sock", f"{home}/.docker/run/docker.sock"]
    found = [path for path in candidates if path.count("/") > 1 and os.path.exists(path)]  # noqa: PTH110  # no pathlib here
    yield from (f"unix://{path}" for path in found or candidates[:1])


def find_engine(environ: Mapping[str, str] = os.environ) -> Engine:
    """The engine of this machine, which has just answered.

    Raises:
        EngineUnavailable: there is none; says why.
    """
    problem = EngineUnavailable("no place to look")
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
    """Remove what a session left.

    Args:
        url: the engine.
        session: its name.
        pending_dir: a directory with a file for each thing that the engine may be making still, of that thing's name.
    """
    Engine(url).remove(session, os.listdir(pending_dir) if os.path.isdir(pending_dir) else ())  # noqa: PTH112, PTH208  # no pathlib here
