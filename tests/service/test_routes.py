"""What goes in and out over HTTP."""

import json

import pytest


def is_problem(reply, status):
    body = reply.json()
    return (
        reply.status_code == status
        and reply.headers["Content-Type"] == "application/problem+json"
        and body["status"] == status
        and {"type", "title", "detail"} <= body.keys()
    )


def test_a_campaign_lives_from_creation_to_deletion(service):
    created = service.post("/api/campaigns", json={"name": "Spring", "message": "Hällo"})
    assert created.status_code == 201
    body = created.json()
    assert {"name": "Spring", "message": "Hällo", "status": "draft", "version": 1}.items() <= body.items()
    assert set(body) == {"id", "name", "message", "status", "version", "created_at", "updated_at"}
    url = created.headers["Location"]
    assert url == f"/api/campaigns/{body['id']}"
    assert created.headers["ETag"] == '"1"'

    read = service.get(url)
    assert (read.json(), read.headers["ETag"]) == (body, '"1"')

    changed = service.put(url, json={"status": "scheduled"})
    assert changed.status_code == 200
    assert (changed.json()["status"], changed.json()["version"], changed.headers["ETag"]) == ("scheduled", 2, '"2"')
    assert service.get(url).json() == changed.json()

    assert service.delete(url).status_code == 204
    assert is_problem(service.get(url), 404)
    assert is_problem(service.put(url, json={"name": "x"}), 404)
    assert is_problem(service.delete(url), 404)


def test_if_match_guards_a_change(service):
    url = service.post("/api/campaigns", json={"name": "n", "message": "m"}).headers["Location"]

    def change(tag):
        return service.put(url, json={"name": "x"}, headers={"If-Match": tag})

    assert change('"1"').status_code == 200
    for tag in ('"1"', 'W/"2"', '"x"', "2", '"99999999999999999999999"'):
        assert is_problem(change(tag), 412), tag
    assert change('"7", "2"').json()["version"] == 3
    assert change("*").json()["version"] == 4
    assert is_problem(service.put(url + "000", json={"name": "x"}, headers={"If-Match": '"1"'}), 404)


def test_lists_come_in_pages(service):
    ids = [service.post("/api/campaigns", json={"name": "n", "message": "m"}).json()["id"] for _ in range(5)]
    before = ids[0] - 1
    first = service.get(f"/api/campaigns?limit=3&after={before}").json()
    assert ([item["id"] for item in first["items"]], first["next"]) == (ids[:3], ids[2])
    rest = service.get(f"/api/campaigns?limit=3&after={first['next']}").json()
    assert ([item["id"] for item in rest["items"]], rest["next"]) == (ids[3:], None)
    exact = service.get(f"/api/campaigns?limit=5&after={before}").json()
    assert (len(exact["items"]), exact["next"]) == (5, None)


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=201", "limit=x", "limit=", "after=-1", "after=9223372036854775808"]
)
def test_a_wrong_page_is_422(service, query):
    assert is_problem(service.get(f"/api/campaigns?{query}"), 422)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff", 400),
        (b"[" * 100_000, 400),
        (b'{"name": ' + b"1" * 5000 + b"}", 400),
        (b"[]", 422),
        (b"null", 422),
        (b'{"name":"","message":"m"}', 422),
        (b'{"name":"\\u0000","message":"m"}', 422),
        (b'{"name":"n","message":"\\ud800"}', 422),
        (b'{"name":NaN,"message":"m"}', 422),
        (json.dumps({"name": "n" * 201, "message": "m"}).encode(), 422),
        (b" " * (1 << 20), 400),
        (b" " * ((1 << 20) + 1), 413),
    ],
)
@pytest.mark.parametrize("chunked", [False, True], ids=["length told", "in chunks"])
def test_a_wrong_body_is_refused(service, body, status, chunked):
    content = iter([body[:100], body[100:]]) if chunked else body
    assert is_problem(service.post("/api/campaigns", content=content), status)


@pytest.mark.parametrize("number", ["0", "x", "-1", "1.5", "9" * 19, "9" * 5000, "%00", "١"])
def test_no_such_campaign_is_404(service, number):
    assert is_problem(service.get(f"/api/campaigns/{number}"), 404)


def test_unknown_paths_and_methods_are_problems(service):
    assert is_problem(service.get("/nope"), 404)
    reply = service.request("PATCH", "/api/campaigns/1")
    assert is_problem(reply, 405)
    assert set(reply.headers["Allow"].replace(" ", "").split(",")) >= {"GET"}
