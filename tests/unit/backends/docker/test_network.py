"""The private network of a session, created by docker-py on a fake engine."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_resilience.backends.docker.backend import DockerBackend
from pytest_resilience.backends.docker.engine import Engine
from pytest_resilience.errors import BackendUnavailable


class FakeEngine(http.server.ThreadingHTTPServer):
    """An engine that creates networks, or refuses to if `refusal` is set."""

    daemon_threads = True

    def __init__(self) -> None:
        self.created: list[dict[str, Any]] = []
        self.gateway = "127.0.0.1"
        self.refusal = ""
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.endswith("/version"):
                    self.reply(200, {"ApiVersion": "1.44"})
                else:
                    self.reply(200, {"Id": "n1", "Name": "s1", "IPAM": {"Config": [{"Gateway": outer.gateway}]}})

            def do_POST(self) -> None:
                outer.created.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                if outer.refusal:
                    self.reply(403, {"message": outer.refusal})
                else:
                    self.reply(201, {"Id": "n1"})

            def reply(self, status: int, body: object) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join(5)


def create_network(engine: FakeEngine, pending_dir: Path) -> tuple[DockerBackend, Any]:
    backend = DockerBackend()
    url = f"tcp://127.0.0.1:{engine.server_port}"
    try:
        return backend, backend._create_network(Engine(url), "s1", {"a": "b"}, pending_dir)
    finally:
        backend._docker.close()  # type: ignore[union-attr]


@pytest.mark.parametrize(("gateway", "reachable"), [("127.0.0.1", True), ("192.0.2.1", False)])
def test_the_network_has_the_labels_and_shows_whether_clients_reach_it(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gateway: str, reachable: bool
) -> None:
    monkeypatch.setattr("pytest_resilience.backends.docker.backend.sys.platform", "linux")
    engine.gateway = gateway
    backend, network = create_network(engine, tmp_path)
    assert network.name == "s1", "testcontainers reads it"
    assert [(each["Name"], each["Driver"], each["Labels"]) for each in engine.created] == [("s1", "bridge", {"a": "b"})]
    assert backend._network_reachable is reachable
    assert list(tmp_path.iterdir()) == [], "nothing is pending"


def test_a_refused_network_is_an_error_with_the_reason(engine: FakeEngine, tmp_path: Path) -> None:
    engine.refusal = "all address pools are in use"
    with pytest.raises(BackendUnavailable, match="could not make a network: all address pools are in use"):
        create_network(engine, tmp_path)
    assert list(tmp_path.iterdir()) == []
