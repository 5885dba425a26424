"""The program of RabbitMQ, with a user whose password is random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from ...backends.backend import Address, SystemProgram
from ...backends.managed_server import connect_and_send
from . import control
from .control import Control, ControlError

RABBITMQ_IMAGE = "rabbitmq:4"
PORT = 5672
USER = "resilience"
VHOST = "/"
PROTOCOL_HEADER = b"AMQP\0\0\x09\x01"
METHOD_FRAME = 1  # the first byte of the answer, connection.start
SCRIPT_FILE = "/tmp/resilience.control"
# The entry points of all images end in `exec "$@"`. An argument of erl can't have spaces, so the script is in a file.
COMMAND = f"""printf '%s' "${control.SCRIPT_VARIABLE}" >{SCRIPT_FILE} && chmod 644 {SCRIPT_FILE}
unset {control.SCRIPT_VARIABLE}
exec docker-entrypoint.sh rabbitmq-server"""


class RabbitmqProgram(SystemProgram):
    """A RabbitMQ with a control port.

    Args:
        image: the image.

    Attributes:
        control: the client of the control port.
    """

    kind = "rabbitmq"
    ports = (PORT, control.PORT)

    def __init__(self, image: str) -> None:
        super().__init__(image)
        self.control = Control()

    def command(self) -> list[str]:
        return ["sh", "-c", COMMAND]

    def environment(self) -> Mapping[str, str]:
        return {
            "RABBITMQ_DEFAULT_USER": USER,
            "RABBITMQ_DEFAULT_PASS": self.password,
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-run file script {SCRIPT_FILE}",
            **self.control.environment(),
        }

    def url(self, address: Address) -> str:
        return f"amqp://{USER}:{quote(self.password)}@{address}/{quote(VHOST, safe='')}"

    def version_at(self, addresses: Sequence[Address]) -> str | None:
        """Return the version once the broker greets clients, which it does when all of it has started."""
        try:
            version = self.control.evaluate(addresses[1], "rabbit_misc:version()")
        except ControlError:
            return None
        with connect_and_send(addresses[0], PROTOCOL_HEADER) as connection:
            return version if connection.recv(1) == bytes([METHOD_FRAME]) else None
