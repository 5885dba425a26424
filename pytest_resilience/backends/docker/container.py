"""A container of ours: started, asked whether it serves, killed, frozen, read."""

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
    from docker.models.containers import Container as Raw
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.network import Network

    from .engine import Engine

Result = TypeVar("Result")

START_WITHIN = 60.0  # seconds; it takes about one, an image's first start on a slow disk many
GONE_WITHIN = 10.0  # seconds for an engine to see that a killed container has ended
POLL = 0.01  # seconds between two questions to a server that starts; more of them would slow it down


class ContainerContext(NamedTuple):
    """Where containers of a session live.

    Args:
        client_options: testcontainers' settings for a client of the engine.
        network: the private network.
        labels: by which they are found again.
        pending_dir: a directory that says what the engine is at work on, for whoever removes all of it.
        clock: what to wait with.
    """

    client_options: dict[str, Any]
    network: Network
    labels: Mapping[str, str]
    pending_dir: Path
    clock: Clock = SYSTEM


@contextmanager
def mark_pending(pending_dir: Path, name: str) -> Iterator[None]:
    """While the engine makes something of that name: it goes on if we are killed meanwhile."""
    from docker.errors import APIError

    mark = pending_dir / name
    mark.touch()
    try:
        yield
    except APIError:  # an answer; without one nobody knows, and the mark stays
        mark.unlink()
        raise
    mark.unlink()


def docker_client_options(engine: Engine) -> dict[str, Any]:
    """Testcontainers' settings for a client of that engine, whatever the environment says meanwhile."""
    return {"environment": {**os.environ, "DOCKER_HOST": engine.url}}


class Container(ManagedServer):
    """One container, waited for by asking what runs in it.

    Args:
        name: its name on the private network, and in messages.
        image: what to run.
        place: where.
    """

    def __init__(self, name: str, image: str, context: ContainerContext) -> None:
        super().__init__(name, context.clock)
        self.private_host = ""
        self._image = image
        self._context = context
        self._container: DockerContainer | None = None
        self._addresses: dict[int, Address] = {}

    # what the kinds say

    @abstractmethod
    def ports(self) -> list[int]:
        """The ports that this machine shall reach, the main one first."""

    @abstractmethod
    def command(self) -> list[str]:
        """What the image's entry point is given."""

    def environment(self) -> Mapping[str, str]:
        """Variables for it; secrets go here, since a command line is for everybody to see."""
        return {}

    @abstractmethod
    def is_ready(self) -> bool:
        """Ask once whether it serves. An OSError counts as no."""

    # its life

    def launch(self) -> None:
        """Create and start it; `wait_until_ready` tells whether it serves.

        Raises:
            ServerNotReady: the engine could not start it.
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
            # Ports of our own choice stay when the container starts again; those that the engine draws do not.
            container.ports[str(port)] = (HOST, free_port())  # type: ignore[assignment]  # it takes docker-py's forms too
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
        said = str(getattr(error, "explanation", None) or error)
        return ServerNotReady(
            self.name, command=["docker", "run", self._image], within=START_WITHIN, log=said, exit_code=None
        )

    def wait_until_ready(self) -> None:
        """Wait until it answers.

        Raises:
            ServerNotReady: it ended, or did not answer in time.
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
        """Close our connection to the engine; the supervisor has the container removed."""
        if self._container is not None:
            self._container.get_docker_client().client.close()
            self._container = None

    @property
    def _docker_container(self) -> Raw:
        assert self._container is not None, "launch first"
        return self._container.get_wrapped_container()

    def _call_engine(self, question: Callable[[], Result]) -> Result:
        """Ask the engine something.

        Raises:
            BackendDied: it is gone, or has no such container any more.
        """
        import requests
        from docker.errors import APIError, NotFound

        try:
            return question()
        except NotFound:
            raise BackendDied(f"the container of {self.name} is gone; somebody must have removed it") from None
        except APIError:  # one of requests' own too
            raise
        except requests.exceptions.RequestException as error:
            raise BackendDied(f"the Docker engine does not answer: {type(error).__name__}") from None

    def _state(self) -> dict[str, Any]:
        self._call_engine(self._docker_container.reload)
        state: dict[str, Any] = self._docker_container.attrs["State"]
        return state

    def update_addresses(self) -> None:
        """Learn where it can be reached now: an engine that starts it again may have bound other ports."""
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
        """Where this machine reaches one of its ports."""
        return self._addresses[port]

    # Server's verbs

    def alive(self) -> bool:
        """Whether its main process exists; a paused one does."""
        return self._container is not None and bool(self._state().get("Running"))

    def processes(self) -> list[int]:
        """The ids of its processes, as the engine's machine counts them, the main one first; empty when it is down."""
        from docker.errors import APIError

        try:
            top = self._call_engine(lambda: self._docker_container.top(ps_args="-eo pid"))
        except APIError:  # it does not run
            return []
        main = self._state().get("Pid")
        pids = [int(row[0]) for row in top["Processes"] or []]
        return sorted(pids, key=lambda pid: pid != main)

    def start(self) -> None:
        """Start it again, and wait until it answers. Nothing to do when it runs.

        Raises:
            ServerNotReady: it does not come up.
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
        """SIGKILL to all its processes; returns when they are gone."""
        self._expected_running = False
        self._signal("SIGKILL")
        self._wait_until_ended(GONE_WITHIN)

    def stop(self) -> None:
        """Have it shut down in order; SIGKILL when that takes too long."""
        self._expected_running = False
        self.resume()  # a frozen process hears nothing
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
        """Freeze all its processes; returns when none of them runs."""
        from docker.errors import APIError

        try:
            self._call_engine(self._docker_container.pause)
        except APIError:
            if not self._state().get("Paused"):
                raise

    def resume(self) -> None:
        """Take a pause back."""
        from docker.errors import APIError

        if self._state().get("Paused"):
            try:
                self._call_engine(self._docker_container.unpause)
            except APIError:
                if self._state().get("Paused"):
                    raise

    def log_size(self) -> int:
        """How many bytes its log has."""
        return len(self._log())

    def log_text(self, since: int = 0) -> str:
        """Its log from byte `since` on."""
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
