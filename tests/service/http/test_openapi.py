"""The OpenAPI document, compared with the routes of the application and with their answers."""

import json

import pytest
from starlette.routing import Route

from service.app import create_app
from service.http.openapi import SCHEMAS, document
from service.postgres.campaigns import MAX_LENGTH
from service.settings import ServiceSettings

METHODS = {"get", "put", "post", "delete", "options", "head", "patch"}


@pytest.fixture(scope="module")
def api():
    return json.loads(document())


def operations(api):
    return [
        (path, method, operation)
        for path, item in api["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    ]


def test_every_route_is_in_the_document_and_the_other_way_round(service, api):
    routes = create_app(ServiceSettings(database_url="postgresql://127.0.0.1:1/x")).routes
    assert {route.path for route in routes if isinstance(route, Route)} == set(api["paths"])
    for path, item in api["paths"].items():
        allowed = service.request("OPTIONS", path.replace("{id}", "1")).headers["Allow"].lower().split(", ")
        assert set(allowed) - {"options", "head"} == set(item) & METHODS, path


def test_the_service_serves_the_document(service, api):
    reply = service.get("/openapi.json")
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.json() == api


def test_every_reference_has_a_target(api):
    def references(node):
        if isinstance(node, dict):
            yield from (value for name, value in node.items() if name == "$ref")
            node = list(node.values())
        if isinstance(node, list):
            for each in node:
                yield from references(each)

    used = set(references(api))
    assert used <= {f"#/components/schemas/{name}" for name in SCHEMAS}
    assert {f"#/components/schemas/{name}" for name in SCHEMAS} <= used, "a schema is not used"


def test_operation_ids_are_unique_and_links_lead_to_them(api):
    ids = [operation["operationId"] for _, _, operation in operations(api)]
    assert len(ids) == len(set(ids))
    links = [
        link["operationId"]
        for _, _, operation in operations(api)
        for response in operation["responses"].values()
        for link in response.get("links", {}).values()
    ]
    assert links
    assert set(links) <= set(ids)


def test_every_operation_may_be_a_503_with_retry_after(api):
    for path, method, operation in operations(api):
        response = operation["responses"]["503"]
        assert response["headers"]["Retry-After"]["required"], (path, method)
        assert "application/problem+json" in response["content"]


def test_limits_are_those_of_the_checks(service, api):
    schema = api["components"]["schemas"]["NewCampaign"]["properties"]
    for name, length in MAX_LENGTH.items():
        assert schema[name]["maxLength"] == length
        body = {"name": "n", "message": "m"}
        assert service.post("/api/campaigns", json=body | {name: "x" * length}).status_code == 201
        assert service.post("/api/campaigns", json=body | {name: "x" * (length + 1)}).status_code == 422
    limit = api["paths"]["/api/campaigns"]["get"]["parameters"][0]
    assert limit["name"] == "limit"
    for number, status in ((limit["schema"]["maximum"], 200), (limit["schema"]["maximum"] + 1, 422)):
        assert service.get(f"/api/campaigns?limit={number}").status_code == status
