"""The description of the HTTP API for programs, in OpenAPI 3.1.

The limits come from the constants that the checks of client input use, so the two cannot disagree. `/openapi.json` serves
it. Nothing else imports this file.
"""

from __future__ import annotations

import functools
import json
from typing import Any, get_args

from ..jobs.job import JobStatus
from ..postgres.cadences import MAX_REPEAT, MAX_SECONDS, MIN_SECONDS
from ..postgres.campaigns import MAX_ID, MAX_LENGTH, STATUSES
from ..postgres.status import STATES
from .contact_routes import HEADER, MAX_ERRORS, MAX_FILE_BYTES, MAX_ROWS
from .limits import MAX_BODY_BYTES, MAX_PAGE, PAGE

Schema = dict[str, Any]

# Postgres stores no NUL. Half a surrogate pair is refused, too, but not every program reads a pattern with such characters.
TEXT_PATTERN = r"^[^\u0000]*$"
PROBLEM = "application/problem+json"
NO_SUCH_CAMPAIGN = "There is no such campaign."


def _text(name: str) -> Schema:
    return {"type": "string", "minLength": 1, "maxLength": MAX_LENGTH[name], "pattern": TEXT_PATTERN}


def _object(properties: Schema, *, required: tuple[str, ...] | None = None, **more: object) -> Schema:
    """Return the schema of an object without other properties. All properties are required unless `required` names some."""
    names = tuple(properties) if required is None else required
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        **({"required": list(names)} if names else {}),
        **more,
    }


ID: Schema = {"type": "integer", "format": "int64", "minimum": 1, "maximum": MAX_ID}
COUNT: Schema = {"type": "integer", "minimum": 0}
TIME: Schema = {"type": "string", "format": "date-time"}
STATUS: Schema = {"type": "string", "enum": list(STATUSES)}
JOB_ID: Schema = {"type": "string", "pattern": r"^campaign-(0|[1-9][0-9]{0,18})-(0|[1-9][0-9]{0,18})$"}

SCHEMAS: Schema = {
    "NewCampaign": _object({"name": _text("name"), "message": _text("message")}),
    "CampaignChange": _object(
        {"name": _text("name"), "message": _text("message"), "status": STATUS}, required=(), minProperties=1
    ),
    "Campaign": _object(
        {
            "id": ID,
            "name": _text("name"),
            "message": _text("message"),
            "status": STATUS,
            "version": {"type": "integer", "minimum": 1},
            "created_at": TIME,
            "updated_at": TIME,
        }
    ),
    "Page": _object(
        {
            "items": {"type": "array", "items": {"$ref": "#/components/schemas/Campaign"}, "maxItems": MAX_PAGE},
            "next": {"anyOf": [ID, {"type": "null"}], "description": "The `after` of the next page; null on the last."},
        }
    ),
    "AcceptedJob": _object(
        {"job_id": JOB_ID, "durable": {"type": "boolean", "description": "True if a killed instance does not lose it."}}
    ),
    "Job": _object(
        {
            "id": JOB_ID,
            "campaign_id": COUNT,
            "status": {"enum": list(get_args(JobStatus)), "description": "`failed` is in the dead-letter queue."},
            "attempts": COUNT,
            "sent": COUNT,
            "total": COUNT,
            "error": {"type": ["string", "null"]},
        }
    ),
    "Cadence": _object(
        {
            "every_seconds": {"type": "number", "minimum": MIN_SECONDS, "maximum": MAX_SECONDS},
            "repeat": {"type": "integer", "minimum": 1, "maximum": MAX_REPEAT, "description": "Steps in all."},
        }
    ),
    "ImportResult": _object(
        {
            "imported": {**COUNT, "description": "New contacts."},
            "updated": {**COUNT, "description": "Rows with an address that was known."},
            "rejected": {**COUNT, "description": "Rows that are no valid contact."},
            "errors": {
                "type": "array",
                "maxItems": MAX_ERRORS,
                "description": "The first rejected rows.",
                "items": _object({"line": {"type": "integer", "minimum": 1}, "reason": {"type": "string"}}),
            },
        }
    ),
    "Problem": {
        "type": "object",
        "description": "RFC 9457.",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": {"type": "string"},
            "errors": {
                "type": "object",
                "description": "The reason for each invalid field.",
                "additionalProperties": {"type": "string"},
            },
        },
    },
    "Health": _object(
        {
            "status": {"const": "healthy"},
            "nextReady": {"type": "boolean", "description": "False while the service shuts down."},
            "timestamp": TIME,
            "uptime": {"type": "number", "minimum": 0, "description": "Seconds."},
        }
    ),
    "Liveness": _object({"status": {"const": "alive"}}),
    "Readiness": _object(
        {
            "status": {"enum": ["ready", "degraded", "starting", "draining", "unavailable"]},
            "checks": {
                "type": "object",
                "required": ["postgres", "redis", "memory", "jobs", "cadence"],
                "properties": {
                    "postgres": {"enum": list(STATES)},
                    "redis": {"enum": ["up", "down"]},
                    "memory": {"enum": ["ok", "refusing"]},
                    "jobs": {"enum": ["up", "journal", "full"], "description": "The part that takes jobs now."},
                    "cadence": {"enum": ["ok", "late"]},
                },
                "additionalProperties": False,
            },
        }
    ),
    "Cleanup": {
        "type": "object",
        "required": ["status", "message", "timestamp"],
        "properties": {
            "status": {"const": "success"},
            "message": {"type": "string"},
            "timestamp": TIME,
            "idle_closed": COUNT,
            "leaked_closed": COUNT,
            "server_terminated": COUNT,
            "gc_freed_mb": {"type": "number"},
        },
        "additionalProperties": False,
    },
}

PROBLEMS = {
    400: "The request is malformed.",
    401: "The caller has no credentials.",
    403: "The caller may not do this.",
    404: "There is no such thing.",
    405: "The path does not support the method.",
    408: "The request came too slowly.",
    409: "The state does not allow this.",
    412: "If-Match names another version.",
    413: "The body is too large.",
    415: "The body has another type.",
    422: "Some fields are invalid.",
    429: "Too soon after the last one.",
    431: "The head of the request is too large.",
    503: "A dependency, or the service itself, cannot serve this now.",
}
RETRY_AFTER: Schema = {
    "Retry-After": {
        "description": "Seconds.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    }
}
EVERY_ROUTE = (400, 405, 408, 431, 503)  # in addition to those of the route
BODY_PROBLEMS = (413, 415, 422)


def _header(description: str, schema: Schema, *, required: bool = True) -> Schema:
    return {"description": description, "required": required, "schema": schema}


ETAG = {"ETag": _header("The version, in quotes.", {"type": "string", "pattern": '^"[1-9][0-9]*"$'})}
LOCATION = {"Location": _header("The path of what was created.", {"type": "string", "pattern": "^/api/"})}
NO_STORE = {"Cache-Control": _header("Never stored.", {"const": "no-store"})}
CACHE_HEADERS = {
    "X-Cache": _header("State of the copy.", {"enum": ["hit", "miss", "stale"]}),
    "X-Cache-Source": _header("The layer that answered.", {"enum": ["redis", "memory", "postgres"]}),
}
IF_MATCH: Schema = {
    "name": "If-Match",
    "in": "header",
    "description": "The versions that may be changed, as a list of entity tags, or `*`.",
    "schema": {"type": "string"},
    "example": '"1"',
}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _content(schema: Schema, media_type: str = "application/json") -> Schema:
    return {"content": {media_type: {"schema": schema}}}


def _body(schema: Schema, media_type: str = "application/json", *, limit: int = MAX_BODY_BYTES) -> Schema:
    return {"required": True, "description": f"At most {limit} bytes.", **_content(schema, media_type)}


def _problem(status: int, description: str | None = None) -> Schema:
    headers = {"headers": RETRY_AFTER} if status in (429, 503) else {}
    return {"description": description or PROBLEMS[status], **headers, **_content(_ref("Problem"), PROBLEM)}


def _operation(
    operation_id: str,
    summary: str,
    answer: tuple[int, Schema],
    *problems: int,
    **more: object,
) -> Schema:
    """Return one operation.

    Args:
        operation_id: unique.
        summary: one line.
        answer: status and response of a success.
        problems: statuses of the errors, in addition to EVERY_ROUTE.
        more: further members.
    """
    status, response = answer
    errors = {each: _problem(each) for each in sorted({*problems, *EVERY_ROUTE})}
    responses = {status: {"description": "Success.", **response}, **errors}
    return {
        "operationId": operation_id,
        "summary": summary,
        **more,
        "responses": {str(each): content for each, content in responses.items()},
    }


def _in_path(schema: Schema) -> list[Schema]:
    return [{"name": "id", "in": "path", "required": True, "schema": schema}]


def _links(*operation_ids: str) -> Schema:
    """Return links from a new campaign to operations on it."""
    return {
        "links": {each: {"operationId": each, "parameters": {"id": "$response.body#/id"}} for each in operation_ids}
    }


CAMPAIGN_ANSWER = {"headers": ETAG, **_content(_ref("Campaign"))}
CAMPAIGNS: Schema = {
    "/api/campaigns": {
        "get": _operation(
            "listCampaigns",
            "List campaigns, oldest first",
            (200, _content(_ref("Page"))),
            422,
            parameters=[
                {
                    "name": "limit",
                    "in": "query",
                    "schema": {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": PAGE},
                },
                {
                    "name": "after",
                    "in": "query",
                    "description": "The list begins after this id.",
                    "schema": {"type": "integer", "format": "int64", "minimum": 0, "maximum": MAX_ID, "default": 0},
                },
            ],
        ),
        "post": _operation(
            "createCampaign",
            "Create a campaign",
            (
                201,
                {
                    **CAMPAIGN_ANSWER,
                    "headers": ETAG | LOCATION,
                    **_links("getCampaign", "changeCampaign", "deleteCampaign", "sendCampaign", "putCadence"),
                },
            ),
            *BODY_PROBLEMS,
            requestBody=_body(_ref("NewCampaign")),
        ),
    },
    "/api/campaigns/{id}": {
        "parameters": _in_path(ID),
        "get": _operation(
            "getCampaign",
            "Read a campaign",
            (200, {**CAMPAIGN_ANSWER, "headers": ETAG | CACHE_HEADERS}),
            404,
        ),
        "put": _operation(
            "changeCampaign",
            "Change a campaign",
            (200, CAMPAIGN_ANSWER),
            *(404, 412),
            *BODY_PROBLEMS,
            parameters=[IF_MATCH],
            requestBody=_body(_ref("CampaignChange")),
        ),
        "delete": _operation("deleteCampaign", "Delete a campaign", (204, {}), 404, 412, parameters=[IF_MATCH]),
    },
}

ACCEPTED = {"headers": LOCATION, **_content(_ref("AcceptedJob"))}
JOB_LINK = {"parameters": {"id": "$response.body#/job_id"}}
JOBS: Schema = {
    "/api/campaigns/{id}/send": {
        "parameters": _in_path(ID),
        "post": _operation(
            "sendCampaign",
            "Send a campaign to all contacts; again for the same campaign, it is the same job",
            (202, {**ACCEPTED, "links": {each: {"operationId": each, **JOB_LINK} for each in ("getJob", "retryJob")}}),
            404,
        ),
    },
    "/api/jobs/{id}": {
        "parameters": _in_path(JOB_ID),
        "get": _operation(
            "getJob", "Return the state of a job", (200, {"headers": NO_STORE, **_content(_ref("Job"))}), 404
        ),
    },
    "/api/jobs/{id}/retry": {
        "parameters": _in_path(JOB_ID),
        "post": _operation("retryJob", "Queue a job of the dead-letter queue again", (202, ACCEPTED), 404, 409),
    },
}
CADENCE_ANSWER = _content(_ref("Cadence"))
CADENCES: Schema = {
    "/api/campaigns/{id}/cadence": {
        "parameters": _in_path(ID),
        "get": _operation("getCadence", "Return the cadence of a campaign", (200, CADENCE_ANSWER), 404),
        "put": _operation(
            "putCadence",
            "Send a campaign once in each period",
            (200, CADENCE_ANSWER),
            404,
            *BODY_PROBLEMS,
            requestBody=_body(_ref("Cadence")),
        ),
        "delete": _operation("deleteCadence", "End the cadence of a campaign", (204, {}), 404),
    },
}
CSV: Schema = {
    "type": "string",
    "description": f"At most {MAX_ROWS} rows after the header. A row that is no valid contact is rejected, and the others are imported.",
    "pattern": f"^{','.join(HEADER)}(\\r?\\n[^\\u0000]*)?$",
    "examples": [f"{','.join(HEADER)}\nAnna Larsson,anna@example.com,+46 8 123 456\n"],
}
CONTACTS: Schema = {
    "/api/contacts/import": {
        "post": _operation(
            "importContacts",
            "Import contacts from a CSV file",
            (200, _content(_ref("ImportResult"))),
            *BODY_PROBLEMS,
            requestBody=_body(CSV, "text/csv", limit=MAX_FILE_BYTES),
        )
    },
}


def _cleanup(operation_id: str) -> Schema:
    """Return the operation of a cleanup, which two methods have."""
    verbose = {
        "name": "verbose",
        "in": "query",
        "allowEmptyValue": True,
        "description": "With this parameter, whatever its value, the response has counts.",
        "schema": {},
    }
    return _operation(
        operation_id,
        "Close zombie connections and collect garbage",
        (200, {"headers": NO_STORE, **_content(_ref("Cleanup"))}),
        *(401, 403, 429),
        parameters=[verbose],
        security=[{}, {"cleanupToken": []}],
    )


METRICS_TEXT: Schema = {"schema": {"type": "string"}}
SERVICE: Schema = {
    "/health": {
        "get": _operation("health", "Wait for nothing", (200, {"headers": NO_STORE, **_content(_ref("Health"))}))
    },
    "/livez": {
        "get": _operation(
            "liveness", "Answer while the process lives", (200, {"headers": NO_STORE, **_content(_ref("Liveness"))})
        )
    },
    "/readyz": {
        "get": _operation(
            "readiness",
            "Return the state of each dependency",
            (200, {"headers": NO_STORE, **_content(_ref("Readiness"))}),
        )
    },
    "/metrics": {
        "get": _operation(
            "metrics",
            "Return the metrics for Prometheus",
            (
                200,
                {
                    "headers": NO_STORE,
                    "content": {"text/plain": METRICS_TEXT, "application/openmetrics-text": METRICS_TEXT},
                },
            ),
        )
    },
    "/openapi.json": {"get": _operation("openapi", "Return this document", (200, _content({"type": "object"})))},
    "/api/db-cleanup": {"get": _cleanup("cleanUpByGet"), "post": _cleanup("cleanUp")},
}
# The body of a 503 is that of /readyz itself, or a problem.
SERVICE["/readyz"]["get"]["responses"]["503"]["content"]["application/json"] = {"schema": _ref("Readiness")}


@functools.cache
def document() -> bytes:
    """Return the document as JSON."""
    return json.dumps(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Campaign service",
                "version": "1",
                "description": (
                    "Every path answers OPTIONS, and HEAD where it has GET, except the cleanup. A failed dependency is 503 with"
                    " Retry-After. Live updates of campaigns are events of Socket.IO on /socket.io/."
                ),
            },
            "paths": CAMPAIGNS | JOBS | CADENCES | CONTACTS | SERVICE,
            "components": {
                "schemas": SCHEMAS,
                "securitySchemes": {"cleanupToken": {"type": "http", "scheme": "bearer"}},
            },
        }
    ).encode()
