"""A proxy that reads the protocol of a server, with rules for single statements, by its HTTP API."""

from __future__ import annotations

import http.client
import json
from typing import Any, NamedTuple

PATIENCE = 10.0  # seconds after which an operation counts as hanging
NAME = "statements"  # of the proxy


class Reply(NamedTuple):
    status: int
    json: Any


class Rules:
    """A new proxy with a protocol, and its rules.

    Args:
        api: host and port of the proxy's API.
        upstream: the address of the server.
        protocol: "postgres" or "redis".

    Attributes:
        listen: the address on which the proxy listens.
    """

    def __init__(self, api: tuple[str, int], upstream: str, protocol: str) -> None:
        self.api = api
        body = {"name": NAME, "listen": "127.0.0.1:0", "upstream": upstream, "protocol": protocol}
        self.listen: str = self.call("POST", "", body).json["listen"]

    def call(self, method: str, path: str, body: object = None) -> Reply:
        connection = http.client.HTTPConnection(*self.api, timeout=PATIENCE)
        try:
            connection.request(method, f"/proxies{path}", None if body is None else json.dumps(body))
            response = connection.getresponse()
            text = response.read()
            return Reply(response.status, json.loads(text) if text else None)
        finally:
            connection.close()

    def rule(self, verb: str, act: str, name: str = "rule", **attributes: object) -> None:
        body = {"name": name, "type": "statement", "attributes": {"verb": verb, "act": act, **attributes}}
        reply = self.call("POST", f"/{NAME}/toxics", body)
        assert reply.status == 200, reply

    def heal(self, name: str = "rule") -> None:
        self.call("DELETE", f"/{NAME}/toxics/{name}")

    @property
    def counters(self) -> Any:
        return self.call("GET", f"/{NAME}/counters").json
