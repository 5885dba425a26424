"""The base class of the containers of a session."""

from __future__ import annotations

import contextlib
import os
import signal
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ...clock import SYSTEM, Clock, wait_until
from ...errors import BackendDied, ServerNotReady
from ..backend import Address
from ..managed_server import ANSWER_WITHIN, HOST, STOP_WITHIN, ManagedServer
from ..session.ports import PortTaken, free_port, with_free_port

if TYPE_CHECKING:
    from docker.models.containers import Container as DockerPyContainer
    from docker.models.networks import Network
    from testcontainers.core.container import DockerContainer

    from .engine import Engine

Result = TypeVar("Result")

START_WITHIN = 60.0  # seconds; it takes one, but many for the first start of an image on a slow disk
GONE_WITHIN = 10.0  # seconds for an engine to notice the end of a killed container
POLL = 0.01  # seconds between two attempts to reach a server that starts; more attempts would slow it down


class ContainerContext(NamedTuple):
    """The environment that the containers of a session share.

    Args:
        client_options: options of testcontainers for a client of the engine.
        network: the private network.
        labels: labels that identify the containers of the session.
        pending_dir: a directory with a file for each request that the engine may not have finished, for the cleanup.
        clock: the clock to wait with.
    """

    client_options: dict[str, Any]
    network: Network
    labels: Mapping[str, str]
    pending_dir: Path
    clock: Clock = SYSTEM


@contextmanager
def mark_pending(pending_dir: Path, name: str) -> Iterator[None]:
    """Mark a name as pending during a request, because the engine finishes the requests of a killed client."""
    from docker.errors import APIError

    mark = pending_dir / name
    mark.touch()
    try:
        yield
    except (
        APIError
    ):  # the engine has refused the request; without a response, the outcome is unknown and the mark stays
        mark.unlink()
        raise
    mark.unlink()


def docker_client_options(engine: Engine) -> dict[str, Any]:
    """Return options of testcontainers for a client of this engine, even if DOCKER_HOST changes."""
    return {"environment": {**os.environ, "DOCKER_HOST": engine.url}}


class Container(ManagedServer):
    """A container, polled until the server in it answers.

    Args:
        name: its name on the private network and in messages.
        image: the image to run.
        context: the session.

    Attributes:
        private_host: its IP address on the private network; empty before the start.
    """

    def __init__(self, name: str, image: str, context: ContainerContext) -> None:
        super().__init__(name, context.clock)
        self.private_host = ""
        self._image = image
        self._context = context
        self._container: DockerContainer | None = None
        self._addresses: dict[int, Address] = {}

    @abstractmethod
    def ports(self) -> list[int]:
        """Return the ports to publish on loopback, the main port first."""

    @abstractmethod
    def command(self) -> list[str]:
        """Return the arguments for the entry point of the image."""

    def environment(self) -> Mapping[str, str]:
        """Return environment variables. Secrets are passed by them, because all users can read a command line."""
        return {}

    @abstractmethod
    def is_ready(self) -> bool:
        """True if the server answers. Each call tries once.

        Raises:
            OSError: the server does not answer yet.
        """

    def launch(self) -> None:
        """Create and start the container, without waiting for the server (`wait_until_ready`).

        Raises:
            ServerNotReady: the engine could not start the container.
        """
        self._container = with_free_port(self._create_and_start)
        self._expected_running = True
        self.update_addresses()

    def _create_and_start(self, _: int) -> DockerContainer:
        from docker.errors import APIError, DockerException
        from testcontainers.core.container import DockerContainer

        network = self._context.network
        name = f"{network.name}-{self.name}"
        container = DockerContainer(self._image, self._context.client_options, name=name)
        container.with_network(network).with_network_aliases(self.name)
        container.with_command(self.command()).with_envs(**self.environment())
        container.with_kwargs(labels=dict(self._context.labels))
        for port in self.ports():
            # Ports that the engine chooses would change when the container starts again.
            container.ports[str(port)] = (HOST, free_port())  # type: ignore[assignment]  # it accepts docker-py's forms too
        try:
            with mark_pending(self._context.pending_dir, name):
                container.start()
        except APIError as error:
            container.stop()
            if "address already in use" in str(error) or "port is already allocated" in str(error):
                raise PortTaken(self._start_failed(error)) from None
            raise self._start_failed(error) from None
        except DockerException as error:
            raise self._start_failed(error) from None
        return container

    def _start_failed(self, error: Exception) -> ServerNotReady:
        reason = str(getattr(error, "explanation", None) or error)
        return ServerNotReady(
            self.name, command=["docker", "run", self._image], within=START_WITHIN, log=reason, exit_code=None
        )

    def wait_until_ready(self) -> None:
        """Wait until the server answers.

        Raises:
            ServerNotReady: the container ended, or the server did not answer in time.
        """
        polls = 0

        def outcome() -> str | None:
            nonlocal polls
            polls += 1
            with contextlib.suppress(OSError):
                if self.is_ready():
                    return "ready"
            return "ended" if polls % 10 == 0 and not self.alive() else None

        if wait_until(outcome, within=START_WITHIN, every=POLL, clock=self._clock) != "ready":
            raise self._not_ready()

    def _not_ready(self) -> ServerNotReady:
        state = self._state()
        self._expected_running = False
        code = None if state.get("Running") else state.get("ExitCode")
        command = ["docker", "run", self._image, *self.command()]
        log = self.log_text(self._log_begin)
        return ServerNotReady(self.name, command=command, within=START_WITHIN, log=log, exit_code=code)

    def disconnect(self) -> None:
        """Close the connection to the engine. The supervisor removes the container."""
        if self._container is not None:
            self._container.get_docker_client().client.close()
            self._container = None

    @property
    def _docker_container(self) -> DockerPyContainer:
        assert self._container is not None, "launch first"
        return self._container.get_wrapped_container()

    def _call_engine(self, call: Callable[[], Result]) -> Result:
        """Call a function of docker-py.

        Raises:
            BackendDied: the engine does not answer, or no longer has the container.
        """
        import requests
        from docker.errors import APIError, NotFound

        try:
            return call()
        except NotFound:
            raise BackendDied(
                f"the container of {self.name} does not exist any more; it must have been removed"
            ) from None
        except APIError:  # a RequestException too
            raise
        except requests.exceptions.RequestException as error:
            raise BackendDied(f"the Docker engine does not answer: {type(error).__name__}") from None

    def _state(self) -> dict[str, Any]:
        self._call_engine(self._docker_container.reload)
        state: dict[str, Any] = self._docker_container.attrs["State"]
        return state

    def update_addresses(self) -> None:
        """Read the published ports and the private address, which may change when the container starts again."""
        wait_until(self._are_ports_bound, within=ANSWER_WITHIN, every=POLL, clock=self._clock)
        self._addresses = {
            port: Address(HOST, int(bound[0]["HostPort"])) for port, bound in self._bound_ports().items()
        }
        networks = self._docker_container.attrs["NetworkSettings"]["Networks"].values()
        self.private_host = next((str(network["IPAddress"]) for network in networks), "")

    def _are_ports_bound(self) -> bool:
        self._state()
        return self._bound_ports().keys() >= set(self.ports())

    def _bound_ports(self) -> dict[int, Any]:
        ports = self._docker_container.attrs["NetworkSettings"]["Ports"]
        return {int(port.split("/")[0]): bound for port, bound in ports.items() if bound}

    def published_address(self, port: int) -> Address:
        """Return the loopback address of a published port."""
        return self._addresses[port]

    def alive(self) -> bool:
        """True if the main process exists, paused or not."""
        return self._container is not None and bool(self._state().get("Running"))

    def processes(self) -> list[int]:
        """Return the process ids on the machine of the engine, the main process first. The list is empty when it is down."""
        from docker.errors import APIError

        try:
            top = self._call_engine(lambda: self._docker_container.top(ps_args="-eo pid"))
        except APIError:  # the container does not run
            return []
        main = self._state().get("Pid")
        pids = [int(row[0]) for row in top["Processes"] or []]
        return sorted(pids, key=lambda pid: pid != main)

    def start(self) -> None:
        """Start the container again, and wait until the server answers. Do nothing if it runs.

        Raises:
            ServerNotReady: the server does not answer in time.
        """
        from docker.errors import APIError

        if not self.alive():
            self._log_begin = self.log_size()
            try:
                self._call_engine(self._docker_container.start)
            except APIError as error:
                raise self._start_failed(error) from None
            self._expected_running = True
            self.update_addresses()
            self.wait_until_ready()

    def kill(self) -> None:
        """Send SIGKILL to all its processes, and return when they have exited."""
        self._expected_running = False
        self._signal("SIGKILL")
        self._wait_until_ended(GONE_WITHIN)

    def stop(self) -> None:
        """Shut it down in an orderly way, or by SIGKILL if that takes too long."""
        self._expected_running = False
        self.resume()  # a frozen process does not handle signals
        self._signal(self.stop_signal)
        if not self._wait_until_ended(STOP_WITHIN):
            self.kill()

    stop_signal = "SIGTERM"

    def _signal(self, name: str) -> None:
        from docker.errors import APIError

        try:
            self._call_engine(lambda: self._docker_container.kill(signal=name))
        except APIError:
            if self.alive():
                raise

    def _wait_until_ended(self, within: float) -> bool:
        return wait_until(lambda: not self.alive(), within=within, every=POLL, clock=self._clock)

    def pause(self) -> None:
        """Freeze all its processes, and return when none of them runs."""
        from docker.errors import APIError

        try:
            self._call_engine(self._docker_container.pause)
        except APIError:
            if not self._state().get("Paused"):
                raise

    def resume(self) -> None:
        """Continue all its processes after `pause`."""
        from docker.errors import APIError

        if self._state().get("Paused"):
            try:
                self._call_engine(self._docker_container.unpause)
            except APIError:
                if self._state().get("Paused"):
                    raise

    def log_size(self) -> int:
        """Return the size of its log in bytes."""
        return len(self._log())

    def log_text(self, since: int = 0) -> str:
        """Return its log from byte `since` on."""
        return self._log()[since:].decode(errors="replace")

    def _log(self) -> bytes:
        if self._container is None:
            return b""
        text: bytes = self._call_engine(self._docker_container.logs)
        return text

    def _how_it_ended(self) -> str | None:
        state = self._state()
        if state.get("Running"):
            return None
        code = state.get("ExitCode", 0)
        return f"signal {signal.Signals(code - 128).name}" if 128 < code < 160 else f"exit code {code}"
