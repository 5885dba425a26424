"""Describe a service that is not ready: its open ports and its response."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING

from ..hosts import joined

if TYPE_CHECKING:
    from .service_spec import Service


def answer_line(asked: str, status: int) -> str:
    """Return the line about an answer that does not mean ready.

    Args:
        asked: the request, such as "GET /readyz on port 8000".
        status: the status of the answer.
    """
    phrase = next((f" {each.phrase}" for each in HTTPStatus if each == status), "")
    hint = (
        "does the service have the path of Service(ready=...)?"
        if status == HTTPStatus.NOT_FOUND
        else "2xx and 3xx mean ready"
    )
    return f"{asked} answered {status}{phrase}; {hint}"


def listening_lines(
    spec: Service, ports: Mapping[str, int], requested: tuple[str, int], seen: str, pids: Iterable[int]
) -> list[str]:
    """Return lines about a service that runs and does not answer on a port.

    Args:
        spec: the description of its start.
        ports: its ports by name.
        requested: the host and port that were requested.
        seen: the last request, with the name of its error.
        pids: the processes of the service.
    """
    host, port = requested
    places = listening(pids)
    if any(place.endswith(f":{port}") for place in places):
        if not set(places) & {joined(host, port), f"0.0.0.0:{port}", f"[::]:{port}"}:
            return [seen, f"it listens on {' and '.join(places)}; the request went to {joined(host, port)}"]
        return [f"{seen}, although it listens on that port"]
    if places:
        return [seen, f"it listens on {' and '.join(places)}, not on {port}{_origin(spec, ports, port)}"]
    return [seen, "it listens on no port"]


def _origin(spec: Service, ports: Mapping[str, int], port: int) -> str:
    """Return how the service gets a port, and how that can be changed."""
    name = next((name for name, number in ports.items() if number == port), None)
    if name is None:
        return ""
    placeholder = "{port}" if name == next(iter(ports)) else f"{{{name}}}"
    if placeholder == "{port}" and spec.port_variable is not None:
        return f", the value of {spec.port_variable}; Service(port_variable=...) names the variable that it reads"
    return f", the port {name!r}; {placeholder} in the command or in a value of env is its number"


def listening(pids: Iterable[int]) -> list[str]:
    """Return the TCP addresses that processes listen on, sorted: "127.0.0.1:8000", "[::]:80"."""
    import psutil

    found: set[str] = set()
    for pid in pids:
        try:
            process = psutil.Process(pid)
            # psutil 6 has renamed this method.
            connections = getattr(process, "net_connections", None) or process.connections
            sockets = connections(kind="tcp")
        except psutil.Error:  # the process has just exited, or belongs to another user
            continue
        for each in sockets:
            if each.status == psutil.CONN_LISTEN:
                host = f"[{each.laddr.ip}]" if ":" in each.laddr.ip else each.laddr.ip
                found.add(f"{host}:{each.laddr.port}")
    return sorted(found)
