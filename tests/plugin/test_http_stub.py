"""HTTP stubs: scripted answers, recorded requests, faults between, and a fresh state for each test."""

from __future__ import annotations

import pytest

HEAD = """
import http.client, json, os, socket, threading
import httpx
import pytest
from pytest_resilience import Answer, SetupError, eventually, factories

payments = factories.http_stub("payments")

@pytest.fixture
def client(payments):
    with httpx.Client(base_url=payments.url, timeout=2) as client:
        yield client
"""


def test_answers_by_path_and_method_in_sequence(project: pytest.Pytester) -> None:
    project.makepyfile(
        HEAD
        + """
def test_a_sequence_ends_with_its_last_answer(payments, client):
    payments.answer("/charges", 503, 503, Answer(201, json={"id": "ch_1"}), method="post")
    replies = [client.post("/charges", json={"cents": n}) for n in range(4)]
    assert [each.status_code for each in replies] == [503, 503, 201, 201]
    assert replies[2].json() == {"id": "ch_1"} and replies[2].headers["content-type"] == "application/json"
    assert [each.json()["cents"] for each in payments.requests] == [0, 1, 2, 3]

def test_the_latest_route_comes_first_and_an_equal_one_is_replaced(payments, client):
    payments.answer("/*", 500)
    payments.answer("/a", 503, 200)
    assert [client.get("/a").status_code, client.get("/b").status_code] == [503, 500]
    payments.answer("/a", 418)
    assert client.get("/a").status_code == 418

def test_a_request_without_an_answer_is_a_404_and_recorded(payments, client):
    payments.answer("/charges", 200, method="POST")
    reply = client.get("/charges?limit=5&limit=6&empty=", headers={"X-Trace": "t1"})
    assert (reply.status_code, reply.json()["scripted"]) == (404, ["POST /charges"])
    [request] = payments.requests
    assert (request.method, request.path, request.query) == ("GET", "/charges", {"limit": ["5", "6"], "empty": [""]})
    assert (request.headers["x-trace"], request.status, request.scripted) == ("t1", 404, False)

@pytest.mark.parametrize("number", [1, 2])
def test_each_test_begins_without_answers_and_requests(payments, client, number):
    assert payments.requests == []
    payments.answer("/once", 200)
    assert client.get("/twice").status_code == 404
    assert len(payments.requests) == 1
    payments.clear()
    assert payments.requests == [] and client.get("/once").status_code == 404

def test_connections_are_kept_alive(payments):
    payments.answer("/", Answer(body="x"))
    connection = http.client.HTTPConnection(payments.host, payments.port, timeout=2)
    connection.connect()
    first = connection.sock
    for method in "GET", "HEAD", "GET":
        connection.request(method, "/")
        assert connection.getresponse().read() == (b"" if method == "HEAD" else b"x")
    assert connection.sock is first
    connection.close()

def test_pipelined_requests_are_answered_in_order(payments):
    payments.answer("/", Answer(body="1"), Answer(body="2"))
    with socket.create_connection((payments.host, payments.port), timeout=2) as connection:
        connection.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\nGET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
        data = b"".join(iter(lambda: connection.recv(4096), b""))
    assert data.count(b"HTTP/1.1 200 OK") == 2 and data.index(b"\\r\\n\\r\\n1") < data.index(b"\\r\\n\\r\\n2")

def test_bytes_that_are_no_request_are_a_400(payments):
    with socket.create_connection((payments.host, payments.port), timeout=2) as connection:
        connection.sendall(b"NONSENSE\\r\\n\\r\\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 400")
"""
    )
    project.runpytest_subprocess("--resilience-strict", "--resilience-leaks=error").assert_outcomes(passed=8)


def test_wrong_answers(project: pytest.Pytester) -> None:
    project.makepyfile(
        HEAD
        + """
def test_a_body_that_is_not_what_it_says(payments, client):
    payments.answer("/", Answer(body="{nonsense", headers={"Content-Type": "application/json"}))
    with pytest.raises(ValueError):
        client.get("/").json()

def test_a_body_that_is_cut(payments, client):
    payments.answer("/", Answer(json={"id": "ch_1"}, cut=5), 200)
    with pytest.raises(httpx.RemoteProtocolError):
        client.get("/")
    assert client.get("/").status_code == 200

def test_a_length_that_is_wrong(payments, client):
    payments.answer("/", Answer(body="four", headers={"Content-Length": "2"}))
    assert client.get("/").content == b"fo"

def test_a_delayed_answer_comes_late(payments, client):
    payments.answer("/", Answer(delay=60), 200)
    with pytest.raises(httpx.ReadTimeout):
        client.get("/", timeout=0.2)
    assert client.get("/").status_code == 200, "others are served meanwhile"
    assert [each.status for each in payments.requests] == [200, 200]

def test_a_delayed_answer_of_the_last_test_is_not_waited_for(payments, client):
    assert payments.requests == []
    payments.answer("/", 200)
    assert client.get("/").status_code == 200

def test_a_delayed_answer_is_never_sent_once_the_script_is_cleared(payments):
    payments.answer("/", Answer(delay=60))
    with socket.create_connection((payments.host, payments.port), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
        assert eventually(lambda: payments.requests, within=5)
        payments.clear()
        assert connection.recv(1) == b""

def test_204_has_no_body(payments, client):
    payments.answer("/", Answer(204), Answer(body="next"))
    assert [client.get("/").content, client.get("/").content] == [b"", b"next"]

@pytest.mark.parametrize("wrong", [
    dict(status=99), dict(status=600), dict(status="200"), dict(status=True), dict(json=1, body="x"), dict(body={}),
    dict(delay=-1), dict(delay=float("inf")), dict(delay="1"), dict(cut=-1), dict(body="x", cut=1), dict(cut=0),
    dict(json={1, 2}), dict(headers={"X": "a\\r\\nb"}), dict(headers={"X": 1}), dict(body="xx", cut=0.5),
])
def test_a_wrong_answer_is_an_error_at_once(wrong):
    with pytest.raises(SetupError, match="Answer"):
        Answer(**wrong)

@pytest.mark.parametrize("arguments", [("charges", 200), ("/charges?x=1", 200), ("/charges",), ("/charges", "200"), ("/", 7)])
def test_a_wrong_route_is_an_error_at_once(payments, arguments):
    with pytest.raises(SetupError):
        payments.answer(*arguments)
"""
    )
    project.runpytest_subprocess("--resilience-strict", "--resilience-leaks=error").assert_outcomes(passed=28)


def test_faults_strike_between_the_client_and_the_stub(project: pytest.Pytester) -> None:
    project.makepyfile(
        HEAD
        + """
@pytest.mark.fault("payments.refuse")
def test_refused(resilience, payments, client):
    payments.answer("/", 200)
    with pytest.raises(httpx.ConnectError):
        client.get("/")
    assert payments.requests == [], "the script goes around the proxy"
    resilience.strikes[0].heal()
    assert client.get("/").status_code == 200

def test_an_answer_that_was_lost(payments, client):
    payments.answer("/charges", 201)
    with payments.blackhole("down") as strike:
        with pytest.raises(httpx.ReadTimeout):
            client.post("/charges", timeout=0.3)
    assert strike.receipt.touched and [each.status for each in payments.requests] == [201]

def test_names(resilience_stack, payments):
    with pytest.raises(SetupError, match="can't be the name"):
        resilience_stack.add_tcp("payments", "127.0.0.1:1")
    assert resilience_stack.add_http_stub("payments").url == payments.url
    resilience_stack.add_tcp("other", payments.upstream)
    with pytest.raises(SetupError, match="can't be the name"):
        resilience_stack.add_http_stub("other")
"""
    )
    project.runpytest_subprocess("--resilience-strict").assert_outcomes(passed=3)


def test_a_dead_stub_fails_its_test_only_and_a_failure_shows_the_requests(project: pytest.Pytester) -> None:
    project.makepyfile(
        HEAD
        + """
import psutil

def the_process(payments):
    port = int(payments.upstream.rpartition(":")[2])
    words = {each: each.info["cmdline"] or [] for each in psutil.process_iter(["cmdline"])}  # None for one that has just ended
    [found] = [each for each in words if any("http_stub.server" in word for word in words[each]) and str(port) in words[each]]
    return found

def test_red(payments, client):
    payments.answer("/charges", Answer(402, json={}), method="POST")
    assert client.post("/charges").status_code == 200

def test_dies(payments):
    found = the_process(payments)
    found.kill()
    found.wait(5)

def test_lives_again(payments, client):
    payments.answer("/", 200)
    assert client.get("/").status_code == 200
"""
    )
    result = project.runpytest_subprocess()
    result.assert_outcomes(failed=2, passed=1)
    result.stdout.fnmatch_lines(["*BackendDied: the stub payments ended with exit code -9 (SIGKILL)*"])
    [log] = (project.path / ".resilience" / "logs").rglob("*test_red.log")
    assert "POST /charges -> 402\n" in log.read_text()


def test_a_toxiproxy_that_cannot_reach_the_stub_is_an_error_each_time(project: pytest.Pytester) -> None:
    project.makepyfile(
        HEAD
        + """
from pytest_resilience.targets.stub_process import StubProcess

def unreachable(*arguments, **options):
    raise ConnectionResetError

@pytest.mark.parametrize("turn", [1, 2])
def test_it(resilience, resilience_stack, monkeypatch, turn):
    monkeypatch.setattr(StubProcess, "command_at", unreachable)
    monkeypatch.setattr(StubProcess, "prepare", StubProcess._start)
    monkeypatch.setattr(StubProcess, "_wait_until_ready", lambda self, child: None)
    with pytest.raises(SetupError, match="payments: the Toxiproxy at .* can't reach the stub at .*ConnectionResetError"):
        resilience_stack.add_http_stub("payments")
    assert "payments" not in [each["name"] for each in resilience_stack.proxy_client.request("GET", "/proxies").values()]

def test_then_it_can(payments, client):
    payments.answer("/", 200)
    assert client.get("/").status_code == 200
"""
    )
    project.runpytest_subprocess().assert_outcomes(passed=3)


def test_no_stub_outlives_the_session(project: pytest.Pytester) -> None:
    project.makepyfile(
        HEAD
        + """
import pathlib

def test_it(payments):
    pathlib.Path("upstream").write_text(payments.upstream)
"""
    )
    project.runpytest_subprocess().assert_outcomes(passed=1)
    host, _, port = (project.path / "upstream").read_text().partition(":")
    import socket

    with socket.socket() as probe:
        assert probe.connect_ex((host, int(port))) != 0
