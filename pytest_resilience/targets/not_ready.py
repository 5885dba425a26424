"""Describe a service that is not ready: its open ports and its response."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .service_spec import Service


def describe_state(spec: Service, port: int, status: int | str, pids: Iterable[int]) -> list[str]:
    """Return lines that describe a service that runs and is not ready.

    Args:
        spec: the description of its start.
        port: the port that it was given.
        status: the last response status, or the name of the connection error.
        pids: its processes.
    """
    asked = f"GET {spec.ready} on port {port}"
    if isinstance(status, int):
        phrase = next((f" {each.phrase}" for each in HTTPStatus if each == status), "")
        hint = (
            "does the service have the path of Service(ready=...)?"
            if status == HTTPStatus.NOT_FOUND
            else "2xx and 3xx mean ready"
        )
        return [f"{asked} answered {status}{phrase}; {hint}"]
    places = listening(pids)
    if any(place.endswith(f":{port}") for place in places):
        elsewhere = [f"{spec.host}:{port}", f"0.0.0.0:{port}", f"[::]:{port}"]
        if not set(places) & set(elsewhere):
            return [
                f"{asked}: {status}",
                f"it listens on {' and '.join(places)}; the request went to {spec.host}:{port}",
            ]
        return [f"{asked}: {status}, although it listens on that port"]
    if places:
        hint = f"it listens on {' and '.join(places)}, not on {port}, the value of {spec.port_variable}"
        return [f"{asked}: {status}", f"{hint}; Service(port_variable=...) names the variable that it reads"]
    return [f"{asked}: {status}", "it listens on no port"]


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
