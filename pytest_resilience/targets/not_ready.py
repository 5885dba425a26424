"""Why a service that was started is not ready: what its processes listen on, and what it answers."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .service_spec import Service


def describe_state(spec: Service, port: int, status: int | str, pids: Iterable[int]) -> list[str]:
    """Return what was seen of a service that runs and is not ready, a line each.

    Args:
        spec: how it was started.
        port: the port that it was given.
        status: what it answered last, or the error of asking.
        pids: its processes.
    """
    asked = f"GET {spec.ready} on port {port}"
    if isinstance(status, int):
        phrase = next((f" {each.phrase}" for each in HTTPStatus if each == status), "")
        hint = "is Service(ready=...) a path of it?" if status == HTTPStatus.NOT_FOUND else "2xx and 3xx mean ready"
        return [f"{asked} answered {status}{phrase}; {hint}"]
    places = listening(pids)
    if any(place.endswith(f":{port}") for place in places):
        elsewhere = [f"{spec.host}:{port}", f"0.0.0.0:{port}", f"[::]:{port}"]
        if not set(places) & set(elsewhere):
            return [f"{asked}: {status}", f"it listens on {' and '.join(places)}, and was asked at {spec.host}:{port}"]
        return [f"{asked}: {status}, although it listens there"]
    if places:
        hint = f"it listens on {' and '.join(places)}, and not on {port}, which {spec.port_variable} says"
        return [f"{asked}: {status}", f"{hint}; Service(port_variable=...) names the variable that it reads"]
    return [f"{asked}: {status}", "it listens on no port"]


def listening(pids: Iterable[int]) -> list[str]:
    """Return the TCP addresses that processes listen on, sorted: "127.0.0.1:8000", "[::]:80"."""
    import psutil

    found: set[str] = set()
    for pid in pids:
        try:
            process = psutil.Process(pid)
            # psutil 6 has renamed it.
            connections = getattr(process, "net_connections", None) or process.connections
            sockets = connections(kind="tcp")
        except psutil.Error:  # it has just ended, or it is another user's
            continue
        for each in sockets:
            if each.status == psutil.CONN_LISTEN:
                host = f"[{each.laddr.ip}]" if ":" in each.laddr.ip else each.laddr.ip
                found.add(f"{host}:{each.laddr.port}")
    return sorted(found)
