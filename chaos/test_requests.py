"""A wrong request is refused for what is wrong with it, and is never a 5xx. Each path answers HEAD and OPTIONS."""

from __future__ import annotations

import re
from typing import Any

import httpx

from pytest_resilience import Resilience
from workload import create

JSON = {"Content-Type": "application/json"}
VALID = b'{"name":"n","message":"m"}'
METHODS = {
    "/api/campaigns": "HEAD, GET, POST, OPTIONS",
    "/api/campaigns/{id}": "HEAD, GET, PUT, DELETE, OPTIONS",
    "/api/campaigns/{id}/send": "POST, OPTIONS",
    "/api/campaigns/{id}/cadence": "HEAD, GET, PUT, DELETE, OPTIONS",
    "/api/jobs/campaign-{id}-1": "HEAD, GET, OPTIONS",
    "/api/jobs/campaign-{id}-1/retry": "POST, OPTIONS",
    "/api/contacts/import": "POST, OPTIONS",
    "/health": "HEAD, GET, OPTIONS",
    "/livez": "HEAD, GET, OPTIONS",
    "/readyz": "HEAD, GET, OPTIONS",
    "/metrics": "HEAD, GET, OPTIONS",
    "/openapi.json": "HEAD, GET, OPTIONS",
    "/api/db-cleanup": "GET, POST, OPTIONS",
}
ALL_METHODS = ("HEAD", "GET", "POST", "PUT", "PATCH", "DELETE")


def allowed(reply: httpx.Response) -> set[str]:
    """Return the methods that the header Allow lists."""
    return {method.strip() for method in reply.headers.get("Allow", "").split(",")} - {""}


def test_each_path_answers_head_and_options_and_refuses_the_methods_that_it_does_not_list(
    resilience: Resilience,
) -> None:
    campaign, log = create(resilience)["id"], len(resilience.service.log)
    for path in (f"/api/campaigns/{campaign}", "/api/campaigns", f"/api/campaigns/{campaign + 1}", "/livez"):
        head, get = resilience.service.request("HEAD", path), resilience.service.get(path)
        assert head.status_code == get.status_code, f"HEAD {path} gets {head.status_code}, and GET {get.status_code}"
        for name in ("Content-Type", "ETag", "Content-Length"):
            assert head.headers.get(name) == get.headers.get(name), (
                f"HEAD {path} has the {name} {head.headers.get(name)}, and GET has {get.headers.get(name)}"
            )
    request = resilience.service.request
    for template, listed in METHODS.items():
        path, methods = template.format(id=campaign), set(listed.split(", "))
        options = request("OPTIONS", path)
        assert options.is_success, f"OPTIONS {template} gets {options.status_code}, and every path answers it"
        assert allowed(options) == methods, f"OPTIONS {template} lists {allowed(options)}, not {methods}"
        for method in set(ALL_METHODS) - methods:
            reply = request(method, path)
            assert reply.status_code == 405, f"{method} {template} gets {reply.status_code}, not 405"
            media_type = reply.headers.get("Content-Type")
            assert media_type == "application/problem+json", (
                f"{method} {template}: an error is application/problem+json, not {media_type}"
            )
            assert allowed(reply) == methods, f"the 405 of {method} {template} allows {allowed(reply)}, not {methods}"
    assert "[GC] Freed" not in resilience.service.log[log:], "a request that was refused has cleaned up"
    described = {
        path.replace("{id}", "*"): {method.upper() for method in methods} - {"PARAMETERS", "HEAD", "OPTIONS"}
        for path, methods in request("GET", "/openapi.json").json()["paths"].items()
    }
    for template, listed in METHODS.items():
        path = re.sub(r"campaign-\{id\}-1|\{id\}", "*", template)
        methods = set(listed.split(", ")) - {"HEAD", "OPTIONS"}
        assert described.get(path) == methods, (
            f"/openapi.json describes {described.get(path)} of {template}, which has {methods}"
        )


# What is wrong: (the method, the path, arguments of httpx, the status).
WRONG: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "an unknown path": ("GET", "/api/unknown", {}, 404),
    "an id that no campaign has": ("GET", "/api/campaigns/{free}", {}, 404),
    "the largest id": ("GET", f"/api/campaigns/{2**63 - 1}", {}, 404),
    "an id beyond the largest": ("GET", f"/api/campaigns/{2**63}", {}, 404),
    "an id beyond the largest in a DELETE": ("DELETE", f"/api/campaigns/{2**63}", {}, 404),
    "an id that is no number": ("GET", "/api/campaigns/one", {}, 404),
    "an id in other digits": ("GET", "/api/campaigns/١", {}, 404),
    "a page of no number": ("GET", "/api/campaigns?limit=x", {}, 422),
    "a page of nothing": ("GET", "/api/campaigns?limit=", {}, 422),
    "a page after a negative id": ("GET", "/api/campaigns?after=-1", {}, 422),
    "a page after an id beyond the largest": ("GET", f"/api/campaigns?after={2**63}", {}, 422),
    "no body": ("POST", "/api/campaigns", {"headers": JSON}, 400),
    "half a body": ("POST", "/api/campaigns", {"content": b'{"name":', "headers": JSON}, 400),
    "a body in UTF-16": ("POST", "/api/campaigns", {"content": VALID.decode().encode("utf-16"), "headers": JSON}, 400),
    "a body in Latin-1": (
        "POST",
        "/api/campaigns",
        {"content": '{"name":"ü","message":"m"}'.encode("latin-1"), "headers": JSON},
        400,
    ),
    "a deeply nested body": ("POST", "/api/campaigns", {"content": b"[" * 100_000, "headers": JSON}, 400),
    "a body of another type": (
        "POST",
        "/api/campaigns",
        {"content": VALID, "headers": {"Content-Type": "text/plain"}},
        415,
    ),
    "a body of another charset": (
        "PUT",
        "/api/campaigns/{id}",
        {"content": VALID, "headers": {"Content-Type": "application/json; charset=latin-1"}},
        415,
    ),
    "a name that is twice in the body": (
        "POST",
        "/api/campaigns",
        {"content": b'{"name":"a","message":"m","name":"b"}', "headers": JSON},
        422,
    ),
    "a name that is twice in a PUT": (
        "PUT",
        "/api/campaigns/{id}",
        {"content": b'{"message":"a","message":"b"}', "headers": JSON},
        422,
    ),
    "NaN": ("POST", "/api/campaigns", {"content": b'{"name":NaN,"message":"m"}', "headers": JSON}, 422),
    "a number as a name": ("POST", "/api/campaigns", {"json": {"name": 1, "message": "m"}}, 422),
    "NUL in a text": ("PUT", "/api/campaigns/{id}", {"json": {"message": "a\0b"}}, 422),
    "half a surrogate pair in a text": (
        "POST",
        "/api/campaigns",
        {"content": b'{"name":"\\ud800","message":"m"}', "headers": JSON},
        422,
    ),
    "an unknown field": ("PUT", "/api/campaigns/{id}", {"json": {"message": "m", "owner": "o"}}, 422),
    "a list for an object": ("POST", "/api/campaigns", {"json": ["n", "m"]}, 422),
    "a head of more than 64 KiB": ("GET", "/health", {"headers": {"X-Long": "x" * 65_600}}, 431),
    "a head of 200 KB": ("GET", "/health", {"headers": {"X-Long": "x" * 200_000}}, 431),
    "an id that no campaign has in a PUT": ("PUT", "/api/campaigns/{free}", {"json": {"message": "m"}}, 404),
    "an id that no campaign has in a DELETE": ("DELETE", "/api/campaigns/{free}", {}, 404),
    "a version of no campaign": ("DELETE", "/api/campaigns/{free}", {"headers": {"If-Match": '"1"'}}, 404),
    "an id that no campaign has for a job": ("GET", "/api/jobs/campaign-{free}-0", {}, 404),
    "a body without a message": ("POST", "/api/campaigns", {"json": {"name": "n"}}, 422),
    "an empty name": ("POST", "/api/campaigns", {"json": {"name": "", "message": "m"}}, 422),
    "an empty message": ("PUT", "/api/campaigns/{id}", {"json": {"message": ""}}, 422),
    "nothing to change": ("PUT", "/api/campaigns/{id}", {"json": {}}, 422),
    "a status that no campaign has": ("PUT", "/api/campaigns/{id}", {"json": {"status": "done"}}, 422),
    "a page of two sizes": ("GET", "/api/campaigns?limit=1&limit=2", {}, 422),
    "a file of no type": ("POST", "/api/contacts/import", {"content": b"name,email,phone\n"}, 415),
    "a cadence of another type": (
        "PUT",
        "/api/campaigns/{id}/cadence",
        {"content": b'{"every_seconds":9,"repeat":1}', "headers": {"Content-Type": "text/plain"}},
        415,
    ),
    "a stale version in a DELETE": ("DELETE", "/api/campaigns/{id}", {"headers": {"If-Match": '"7"'}}, 412),
    "a stale version": ("PUT", "/api/campaigns/{id}", {"json": {"message": "m"}, "headers": {"If-Match": '"7"'}}, 412),
}


def test_a_wrong_request_gets_a_problem_document_with_its_status(resilience: Resilience) -> None:
    campaign = create(resilience)["id"]
    for wrong, (method, path, arguments, status) in WRONG.items():
        url = path.format(id=campaign, free=campaign + 1000)
        reply = resilience.service.request(method, url, **arguments)
        assert reply.status_code == status, f"{method} with {wrong} gets {reply.status_code}, not {status}"
        media_type = reply.headers.get("Content-Type")
        assert media_type == "application/problem+json", (
            f"{method} with {wrong}: an error is application/problem+json, not {media_type}"
        )
        assert reply.json()["status"] == status, f"the document of a {status} has another status: {reply.text}"
    unchanged = resilience.service.get(f"/api/campaigns/{campaign}").json()
    assert unchanged["version"] == 1, f"requests that were refused have changed a campaign: {unchanged}"


def test_unusual_requests_that_are_right_succeed(resilience: Resilience) -> None:
    """Large heads, a byte order mark, and a list of entity tags in several lines are allowed."""
    created = resilience.service.post("/api/campaigns", json={"name": "n", "message": "m"})
    assert created.status_code == 201, f"a POST gets {created.status_code}, not 201"
    path = f"/api/campaigns/{created.json()['id']}"
    location, tag = created.headers.get("Location"), resilience.service.get(path).headers.get("ETag")
    assert location == path, f"the Location of the campaign {path} is {location}"
    assert re.fullmatch(r'"[^"]+"', tag or ""), f"the ETag of a campaign is {tag}, and If-Match needs a strong tag"
    head = resilience.service.get("/health", headers={"X-Long": "x" * 65_200})
    assert head.status_code == 200, f"a head of 65.3 KB gets {head.status_code}, and it may have 64 KiB"
    for content_type in ("application/json; charset=UTF-8", "application/vnd.campaign+json"):
        content = b"\xef\xbb\xbf" + VALID
        reply = resilience.service.post("/api/campaigns", content=content, headers={"Content-Type": content_type})
        assert reply.status_code == 201, f"a body of the type {content_type} gets {reply.status_code}, not 201"
    reply = resilience.service.put(path, json={"message": "any"}, headers={"If-Match": "*"})
    assert reply.status_code == 200, f"If-Match: * matches every version, and PUT gets {reply.status_code}, not 200"
    for method, body, status in (("PUT", {"json": {"message": "m"}}, 200), ("DELETE", {}, 204)):
        tag = resilience.service.get(path).headers["ETag"]
        lines = [("If-Match", '"77", "78"'), ("If-Match", tag)]
        reply = resilience.service.request(method, path, headers=lines, **body)
        assert reply.status_code == status, (
            f"the second line of If-Match has the tag of the campaign, and {method} gets {reply.status_code}, not {status}"
        )
