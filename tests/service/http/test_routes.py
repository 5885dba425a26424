"""The HTTP routes, through the real service."""

import json

import pytest

from service.http.routes import allowed_versions


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
def test_an_invalid_page_is_422(service, query):
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
@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "in chunks"])
def test_an_invalid_body_is_refused(service, body, status, chunked):
    content = iter([body[:100], body[100:]]) if chunked else body
    assert is_problem(service.post("/api/campaigns", content=content), status)


@pytest.mark.parametrize("number", ["0", "x", "-1", "1.5", "9" * 19, "9" * 5000, "%00", "١"])
def test_a_campaign_that_does_not_exist_is_404(service, number):
    assert is_problem(service.get(f"/api/campaigns/{number}"), 404)


def test_unknown_paths_and_methods_are_problems(service):
    assert is_problem(service.get("/nope"), 404)
    reply = service.request("PATCH", "/api/campaigns/1")
    assert is_problem(reply, 405)
    assert set(reply.headers["Allow"].replace(" ", "").split(",")) >= {"GET"}


def test_every_path_lists_its_methods(service):
    for path, methods in [
        ("/api/campaigns", "HEAD, GET, POST, OPTIONS"),
        ("/api/campaigns/1", "HEAD, GET, PUT, DELETE, OPTIONS"),
        ("/health", "HEAD, GET, OPTIONS"),
        ("/readyz", "HEAD, GET, OPTIONS"),
        ("/api/db-cleanup", "GET, POST, OPTIONS"),
    ]:
        options = service.request("OPTIONS", path)
        assert (options.status_code, options.headers["Allow"]) == (204, methods)
        for method in {"HEAD", "GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"} - set(methods.split(", ")):
            reply = service.request(method, path)
            assert (reply.status_code, reply.headers["Allow"]) == (405, methods)
            assert method == "HEAD" or is_problem(reply, 405)


def test_head_is_get_without_the_body(service, campaign):
    for path in (f"/api/campaigns/{campaign['id']}", "/api/campaigns", "/api/campaigns/0", "/health"):
        head, get = service.request("HEAD", path), service.get(path)
        assert (head.status_code, head.content) == (get.status_code, b"")
        assert head.headers["Content-Type"] == get.headers["Content-Type"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"\\ud800":1}', 422),
        (b'{"name":"n","message":"m","\\udfff\\ud800":{}}', 422),
        (b'{"name":{"\\ud800":1},"message":["\\ud800"]}', 422),
        (b'"\\ud800"', 422),
        (b'{"name":1e400,"message":-1e400}', 422),
        (b"Infinity", 422),
        (b'{"name":"a","message":"m","name":"b"}', 422),
        (b'{"x":{"a":1,"a":2}}', 422),
        (b'{"a":' * 50_000, 400),
        (b'{"name":"n","message":"m"} x', 400),
        ('{"name":"n","message":"m"}'.encode("utf-16"), 400),
        (b'\xef\xbb\xbf{"name":"n","message":"m"}', 201),
        (b'{"name":"n","message":"\\ud83d\\ude00"}', 201),
    ],
)
def test_odd_json_never_causes_an_error_in_the_service(service, log, body, status):
    reply = service.post("/api/campaigns", content=body)
    assert reply.status_code == status
    assert status < 400 or is_problem(reply, status)
    assert "Traceback" not in log()


@pytest.mark.parametrize("size", [40, 15])
def test_a_response_to_unknown_fields_is_bounded(service, size):
    body = b"{" + b",".join(b'"%0*d":1' % (size, i) for i in range((1 << 20) // (size + 5))) + b"}"
    reply = service.post("/api/campaigns", content=body)
    assert is_problem(reply, 422)
    assert len(reply.content) < 4000
    assert "unknown fields" in reply.json()["errors"]["body"]


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 201),
        ("Application/JSON; charset=UTF-8", 201),
        ('application/json; charset="utf-8"', 201),
        ("application/vnd.campaign+json", 201),
        ("application/json;", 201),
        ("application/json; charset=latin-1", 415),
        ("application/jsonp", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("", 415),
    ],
)
def test_a_body_of_another_declared_type_is_415(service, content_type, status):
    content = b'{"name":"n","message":"m"}'
    assert service.post("/api/campaigns", content=content, headers={"Content-Type": content_type}).status_code == status


def test_if_match_guards_a_deletion(service):
    def create():
        return service.post("/api/campaigns", json={"name": "n", "message": "m"}).headers["Location"]

    url = create()
    for tag in ('"2"', 'W/"1"', '"01"', "1", '"1', "", "*, *"):
        assert is_problem(service.delete(url, headers={"If-Match": tag}), 412), tag
    assert service.get(url).status_code == 200
    assert service.delete(url, headers={"If-Match": '"1"'}).status_code == 204
    assert is_problem(service.delete(url, headers={"If-Match": '"1"'}), 404)
    assert service.delete(create(), headers={"If-Match": "*"}).status_code == 204


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        (None, None),
        ("*", None),
        (' "1" ', [1]),
        ('"1","2" , W/"3",\t"4"', [1, 2, 4]),
        (',, "1",,"2",', [1, 2]),
        ('"a,""b", "1"', []),
        ('"a,b", "1"', [1]),
        ('"01", "+1", "1 ", "1.0", "١", "0", "-1", ""', []),
        ('"9223372036854775807", "9223372036854775808", "99999999999999999999"', [9223372036854775807]),
        (", ".join(f'"{n}"' for n in range(1, 3000)), list(range(1, 3000))),
        ('"1", *', []),
        ("1", []),
        ("", []),
    ],
)
def test_all_entity_tags_are_compared_exactly(header, allowed):
    assert allowed_versions(header) == allowed


def test_a_matching_tag_counts_in_any_position_and_header_line(service):
    url = service.post("/api/campaigns", json={"name": "n", "message": "m"}).headers["Location"]
    many = ", ".join(f'"{n}"' for n in range(100, 1000))
    assert service.put(url, json={"name": "x"}, headers={"If-Match": f'{many}, "1"'}).json()["version"] == 2
    lines = [("If-Match", '"77"'), ("If-Match", '"2"')]
    assert service.put(url, json={"name": "x"}, headers=lines).json()["version"] == 3
    assert is_problem(service.put(url, json={"name": "x"}, headers={"If-Match": many}), 412)


def test_a_parameter_given_twice_is_422(service):
    assert is_problem(service.get("/api/campaigns?limit=1&limit=2"), 422)
