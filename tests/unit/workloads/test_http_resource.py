"""The outcome of an operation follows from the response, and its kind and resource from its number alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from pytest_resilience import history as history_module
from pytest_resilience.errors import SetupError
from pytest_resilience.history import History, recording
from pytest_resilience.operation import Operation
from pytest_resilience.workloads import HttpResource

Respond = Callable[[httpx.Request], httpx.Response]


class Served:
    """A workload whose requests a function answers. The first answers create the resources.

    Attributes:
        requests: the requests after those.
    """

    def __init__(self, workload: HttpResource, respond: Respond, *, phase: Any = "run") -> None:
        self.history = History()
        self.requests: list[httpx.Request] = []
        self.respond: Respond = lambda request: httpx.Response(201, json={"id": 7, "uuid": "a0", "version": 1})
        client = httpx.Client(transport=httpx.MockTransport(self._handle), base_url="http://shop")
        self.workload = workload
        workload.begin(SimpleNamespace(service=SimpleNamespace(client=client), history=self.history))
        self.begun = len(self.history.operations)
        self.requests.clear()
        self.respond = respond
        self.history.phase = phase
        self.client = self.history.client()

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self.respond(request)

    def perform(self, kind: str, n: int = 0) -> Operation:
        self.workload.perform(self.client, kind, n)
        return self.history.operations[-1]


def notes(**settings: Any) -> HttpResource:
    return HttpResource("/notes", create={"text": "{value}", "tags": ["a", "{value}"]}, **settings)


def raising(error: type[httpx.HTTPError]) -> Respond:
    def respond(request: httpx.Request) -> httpx.Response:
        raise error("no answer")

    return respond


@pytest.mark.parametrize(
    ("answer", "read", "write"),
    [
        (200, "ok", "ok"),
        (204, "ok", "ok"),
        (400, "fail", "fail"),
        (404, "ok", "fail"),
        (409, "fail", "fail"),
        (412, "fail", "fail"),
        (422, "fail", "fail"),
        (429, "fail", "fail"),
        (500, "fail", "info"),
        (502, "fail", "info"),
        (503, "fail", "info"),
        (504, "fail", "info"),
        (httpx.ConnectError, "fail", "fail"),
        (httpx.ConnectTimeout, "fail", "fail"),
        (httpx.PoolTimeout, "fail", "fail"),
        (httpx.ReadTimeout, "fail", "info"),
        (httpx.ReadError, "fail", "info"),
        (httpx.WriteError, "fail", "info"),
        (httpx.RemoteProtocolError, "fail", "info"),
    ],
)
def test_outcomes(answer: int | type[httpx.HTTPError], read: str, write: str) -> None:
    respond = (lambda request: httpx.Response(answer)) if isinstance(answer, int) else raising(answer)
    served = Served(notes(), respond)
    assert served.perform("read").type == read
    for kind in ("create", "update", "delete"):
        operation = served.perform(kind)
        assert operation.type == write
        assert operation.error == (
            None if write == "ok" else str(answer) if isinstance(answer, int) else answer.__name__
        )
        assert served.perform("read").key == "7", "the resource of the slot stays, also after a lost answer"


def test_a_missing_resource_is_read_as_none() -> None:
    operation = Served(notes(), lambda request: httpx.Response(404)).perform("read")
    assert (operation.type, operation.value, operation.error) == ("ok", None, None)


def test_what_an_answer_shows() -> None:
    headers = {"ETag": '"4"', "X-Cache-Source": "redis", "X-Cache": "stale"}
    served = Served(notes(), lambda request: httpx.Response(200, json={"id": 7, "text": "w1.1"}, headers=headers))
    operation = served.perform("read")
    assert (operation.value, operation.version, operation.source, operation.state) == ("w1.1", 4, "redis", "stale")
    assert served.perform("update").version == 4


def test_names_of_fields_and_headers_are_settings() -> None:
    workload = HttpResource(
        "/notes",
        create=lambda text: {"content": text},
        id_field="uuid",
        version_field="revision",
        source_header="X-From",
        state_header="X-State",
    )
    headers = {"X-From": "disk", "X-State": "old"}
    served = Served(
        workload,
        lambda request: httpx.Response(200, json={"uuid": "a1", "revision": 3, "content": "x"}, headers=headers),
    )
    created = served.perform("create")
    assert (created.key, created.version) == ("a1", 3)
    read = served.perform("read")
    assert (read.key, read.value, read.source, read.state) == ("a1", "x", "disk", "old")


def test_the_id_may_be_that_of_location() -> None:
    served = Served(notes(), lambda request: httpx.Response(201, headers={"Location": "/notes/12"}))
    assert served.perform("create").key == "12"


def test_every_write_has_a_value_of_its_own_which_its_body_has() -> None:
    served = Served(notes(), lambda request: httpx.Response(200, json={"id": 7}))
    operations = [served.perform(kind) for kind in ("create", "update", "update", "create")]
    bodies = [json.loads(request.content) for request in served.requests]
    assert bodies == [{"text": o.value, "tags": ["a", o.value]} for o in operations]
    assert len({o.value for o in served.history.operations}) == len(served.history.operations)
    assert all(str(o.value).startswith(f"w{o.process}.") for o in operations)


def test_a_function_makes_bodies_and_its_field_with_the_text_is_the_value() -> None:
    workload = HttpResource("/notes", lambda text: {"kind": "note", "text": f"<{text}>"}, lambda text: {"text": text})
    served = Served(workload, lambda request: httpx.Response(200, json={"id": 1}))
    created = served.perform("create")
    assert created.value == json.loads(served.requests[0].content)["text"]
    assert created.value.startswith("<w")


def test_half_of_the_updates_are_conditional_on_the_version_that_was_seen() -> None:
    served = Served(notes(), lambda request: httpx.Response(200, json={"id": 7, "version": 9}))
    served.perform("read", 0)
    numbers = [n for n in range(48) if served.workload.kind(n) == "update"]
    operations = [served.perform("update", n) for n in numbers]
    conditional = [o for o in operations if o.expected is not None]
    assert len(operations) / 3 <= len(conditional) <= len(operations) / 1.5
    sent = [request.headers.get("If-Match") for request in served.requests if request.method == "PUT"]
    assert sent == [f'"{o.expected}"' if o.expected is not None else None for o in operations]
    assert not [
        o for o in map(Served(notes(conditional=False), served.respond).perform, ["update"] * 4, range(4)) if o.expected
    ]


def pages(request: httpx.Request) -> httpx.Response:
    after = int(request.url.params.get("after", 0))
    items = [{"id": number, "text": f"t{number}"} for number in range(after + 1, min(after + 3, 6))]
    return httpx.Response(200, json={"items": items, "next": items[-1]["id"] if after + 2 < 5 else None})


def test_a_list_follows_its_pages() -> None:
    operation = Served(notes(), pages).perform("list")
    assert (operation.type, operation.key, operation.value) == ("ok", None, {str(n): f"t{n}" for n in range(1, 6)})


def test_a_list_may_have_urls_of_pages_or_none() -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/notes/page2":
            return httpx.Response(200, json={"items": [{"id": 2, "text": "b"}]})
        return httpx.Response(200, json={"items": [{"id": 1, "text": "a"}], "next": "/notes/page2"})

    assert Served(notes(), respond).perform("list").value == {"1": "a", "2": "b"}
    plain = Served(notes(items=None), lambda request: httpx.Response(200, json=[{"id": 1, "text": "a"}]))
    assert plain.perform("list").value == {"1": "a"}


def test_a_list_without_one_of_its_pages_has_failed() -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        return httpx.Response(503) if "after" in request.url.params else pages(request)

    operation = Served(notes(), respond).perform("list")
    assert (operation.type, operation.value, operation.error) == ("fail", None, "503")


def test_a_list_whose_pages_never_end_has_failed() -> None:
    served = Served(notes(), lambda request: httpx.Response(200, json={"items": [], "next": 1}))
    assert "pages" in str(served.perform("list").error)


def test_in_the_phases_without_faults_a_client_has_a_resource_of_its_own() -> None:
    ids = iter(range(100, 200))
    respond: Respond = lambda request: httpx.Response(201, json={"id": next(ids)})  # noqa: E731
    served = Served(notes(keys=2), respond, phase="recovery")
    own = served.perform("create").key
    served.perform("delete")
    deleted = served.requests[-1].url.path
    assert deleted == f"/notes/{own}"
    served.history.phase = "run"
    assert served.perform("read").key == "7"


def test_at_last_everything_that_was_created_is_read() -> None:
    ids = iter(range(100, 200))
    served = Served(notes(), lambda request: httpx.Response(201, json={"id": next(ids)}))
    served.perform("create")
    served.perform("create")
    served.requests.clear()
    served.workload.read_all(served.client)
    assert [request.url.path for request in served.requests][-2:] == ["/notes/100", "/notes/101"]
    assert {request.method for request in served.requests} == {"GET"}


def test_a_resource_that_was_created_around_the_service_is_recorded_and_read() -> None:
    served = Served(notes(), lambda request: httpx.Response(200, json={"id": 8, "text": "row 8", "version": 1}))
    served.workload.add(served.client, "8", "row 8", version=1)
    served.workload.read(served.client, "8")
    created, read = served.history.operations[-2:]
    assert (created.f, created.type, created.key, created.value, created.version) == ("create", "ok", "8", "row 8", 1)
    assert (read.f, read.type, read.key, read.value, read.version) == ("read", "ok", "8", "row 8", 1)
    served.requests.clear()
    served.workload.read_all(served.client)
    assert "/notes/8" in [request.url.path for request in served.requests]


def test_kinds_and_resources_follow_from_the_number() -> None:
    workload = notes()
    assert [workload.kind(n) for n in range(24)] == [notes().kind(n) for n in range(24)]
    assert {workload.kind(n) for n in range(12)} == {"create", "read", "update", "delete", "list"}
    assert {notes(kinds=("read", "update")).kind(n) for n in range(12)} == {"read", "update"}
    served = Served(notes(), lambda request: httpx.Response(200, json={"id": 7}))
    assert served.begun == 4, "three resources that clients share, and one for the phases without faults"


@pytest.mark.parametrize(
    ("path", "settings", "text"),
    [
        ("notes", {}, "a path such as '/items'"),
        ("/notes", {"kinds": ("patch",)}, "some of delete, create"),
        ("/notes", {"kinds": ()}, "some of delete, create"),
        ("/notes", {"keys": 0}, "1 or more"),
        ("/notes", {}, r'create=\.\.\.\) has no unique text.* "\{value\}" .*; got \{\}$'),
        ("/notes", {"create": {"name": "lamp"}}, r"no unique text.*; got \{'name': 'lamp'\}$"),
        ("/notes", {"create": lambda text: {"name": "lamp"}}, "no unique text"),
    ],
)
def test_wrong_settings_are_errors(path: str, settings: Any, text: str) -> None:
    with pytest.raises(SetupError, match=text):
        HttpResource(path, **({"create": {}} | settings))


def begin(respond: Respond, history: History) -> None:
    client = httpx.Client(transport=httpx.MockTransport(respond), base_url="http://shop")
    notes().begin(SimpleNamespace(service=SimpleNamespace(client=client), history=history))


@pytest.mark.parametrize(
    ("respond", "text"),
    [
        (
            lambda request: httpx.Response(404, text="no such path"),
            r"'/notes'\): POST /notes has created nothing, although nothing has struck; the last of 4 attempts: 404 no such path$",
        ),
        (raising(httpx.ReadTimeout), "the last of 4 attempts: ReadTimeout$"),
        (
            lambda request: httpx.Response(201, json={"uuid": "a1"}),
            "the answer to POST has no id, neither in the field 'id' nor as the last segment of Location",
        ),
    ],
)
def test_a_workload_that_can_create_nothing_is_an_error_unless_a_fault_has_struck(
    monkeypatch: pytest.MonkeyPatch, respond: Respond, text: str
) -> None:
    monkeypatch.setattr(history_module, "_recording", [History()])  # without the faults of other tests
    with pytest.raises(SetupError, match=text):
        begin(respond, History())
    history = History()
    with recording(history):
        history.add_strike("postgres.refuse", time.monotonic())
        begin(respond, history)
    assert len(history.operations) == 4
