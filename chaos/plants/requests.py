"""Plants in the routes: methods, bodies, parameters and the form of errors."""

from __future__ import annotations

from plants.plant import plant

METHODS = "test_requests.py::test_each_path_answers_head_and_options_and_refuses_the_methods_that_it_does_not_list"
WRONG = "test_requests.py::test_a_wrong_request_gets_a_problem_document_with_its_status"
UNUSUAL = "test_requests.py::test_unusual_requests_that_are_right_succeed"

PLANTS = (
    plant(
        "refused-without-allow",
        "405 says it all.",
        (
            "http/routes.py",
            'raise HTTPException(405, "This path does not support the method.", allow)',
            'raise HTTPException(405, "This path does not support the method.")',
        ),
        tests=METHODS,
        message="the 405 of",
    ),
    plant(
        "options-without-allow",
        "There is no body, so there is nothing to say.",
        ("http/routes.py", "return Response(status_code=204, headers=allow)", "return Response(status_code=204)"),
        tests=METHODS,
        message="lists set(), not",
    ),
    plant(
        "cleanup-by-head",
        "HEAD is GET without a body.",
        ("http/routes.py", 'route("/api/db-cleanup", head=False, ', 'route("/api/db-cleanup", '),
        tests=METHODS,
        message="OPTIONS /api/db-cleanup lists",
    ),
    plant(
        "head-not-served",
        "Nobody sends HEAD.",
        ("http/routes.py", '*(["HEAD"] if head and "GET" in endpoints else []), ', ""),
        (
            "http/routes.py",
            'method = "GET" if request.method == "HEAD" and head else request.method',
            "method = request.method",
        ),
        tests=METHODS,
        message="gets 405, and GET 200",
    ),
    plant(
        "bodies-in-any-unicode",
        "json.loads finds out the encoding.",
        (
            "http/routes.py",
            "text = body.removeprefix(codecs.BOM_UTF8).decode()",
            "text = bytes(body.removeprefix(codecs.BOM_UTF8))",
        ),
        tests=WRONG,
        message="a body in UTF-16 gets 201, not 400",
    ),
    plant(
        "last-of-two-names-counts",
        "So does json.loads.",
        ("http/routes.py", "    if len(names) < len(pairs):", "    if False:"),
        tests=(WRONG, "test_edge.py::test_unexpected_body_fields_get_a_short_422"),
        message="not 422",
    ),
    plant(
        "nan-is-no-json",
        "RFC 8259 has no NaN.",
        ("http/routes.py", "object_pairs_hook=_unique_names)", "object_pairs_hook=_unique_names, parse_constant=int)"),
        tests=WRONG,
        message="NaN gets 400, not 422",
    ),
    plant(
        "bodies-of-any-type",
        "Clients forget the header.",
        ("http/routes.py", "    if not content_types:\n        return", "    return"),
        tests=WRONG,
        message="a body of another type gets 201, not 415",
    ),
    plant(
        "charset-ignored",
        "JSON is UTF-8.",
        ("http/routes.py", "        or charset is None\n", ""),
        tests=WRONG,
        message="a body of another charset gets",
    ),
    plant(
        "ids-beyond-bigint",
        "Postgres knows its range.",
        (
            "http/routes.py",
            " and int(text) <= MAX_ID:\n        return int(text)\n    raise HTTPException",
            ":\n        return int(text)\n    raise HTTPException",
        ),
        tests=WRONG,
        message="an id beyond the largest gets 503, not 404",
    ),
    plant(
        "ids-in-any-digits",
        "isdigit finds digits.",
        (
            "http/routes.py",
            "    if text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= MAX_ID:",
            "    if text.isdigit() and len(text) <= 19 and int(text) <= MAX_ID:",
        ),
        tests=WRONG,
        message="not 404",
    ),
    plant(
        "page-of-no-number-is-500",
        "int() checks the number.",
        (
            "http/routes.py",
            "    if text.isascii() and text.isdigit() and len(text) <= 19 and lowest <= int(text) <= highest:",
            "    if lowest <= int(text) <= highest:",
        ),
        tests=WRONG,
        message="a page of no number gets 500, not 422",
    ),
    plant(
        "nul-in-a-text-is-503",
        "Postgres checks what it gets.",
        ("postgres/campaigns.py", 'if "\\0" in value or any(', "if any("),
        tests=WRONG,
        message="NUL in a text gets 503, not 422",
    ),
    plant(
        "unknown-path-in-plain-text",
        "Starlette has a page for it.",
        ("http/problems.py", "    HTTPException: _http_error,\n", ""),
        tests=WRONG,
        message="an error is application/problem+json, not text/plain",
    ),
    plant(
        "wrong-fields-in-plain-json",
        "The fields are what matters.",
        (
            "http/problems.py",
            'return Problem(422, "Some fields are invalid.", errors=error.problems)',
            'return JSONResponse({"errors": error.problems}, 422)',
        ),
        tests=WRONG,
        message="an error is application/problem+json, not application/json",
    ),
    plant(
        "heads-of-8-kib",
        "8 KiB is the limit of most servers.",
        ("http/connections.py", "MAX_HEAD_BYTES = 64 << 10", "MAX_HEAD_BYTES = 8 << 10"),
        tests=UNUSUAL,
        message="and it may have 64 KiB",
    ),
    plant(
        "heads-of-a-mib",
        "Cookies are long.",
        ("http/connections.py", "MAX_HEAD_BYTES = 64 << 10", "MAX_HEAD_BYTES = 1 << 20"),
        tests=WRONG,
        message="a head of more than 64 KiB gets 200, not 431",
    ),
    plant(
        "long-head-is-400",
        "A bad request is a bad request.",
        ("http/connections.py", 'getattr(sys.exception(), "error_status_hint", 400)', "400"),
        tests=WRONG,
        message="a head of 200 KB gets 400, not 431",
    ),
    plant(
        "first-line-of-if-match",
        "A header has one line.",
        ("http/routes.py", 'return ", ".join(lines) if lines else None', "return lines[0] if lines else None"),
        tests=UNUSUAL,
        message="the second line of If-Match has the tag",
    ),
    plant(
        "only-application-json",
        "There is one JSON.",
        (
            "http/routes.py",
            'kind == "application/json" or JSON_SUFFIX_TYPE.fullmatch(kind)',
            'kind == "application/json"',
        ),
        tests=UNUSUAL,
        message="application/vnd.campaign+json gets 415, not 201",
    ),
    plant(
        "created-without-a-location",
        "The body has the id.",
        ("http/routes.py", 'status=201, headers={"Location": f"/api/campaigns/{campaign.id}"})', "status=201)"),
        tests=UNUSUAL,
        message="the Location of the campaign",
    ),
    plant(
        "etag-weak",
        "A weak tag is enough for a cache.",
        ("http/routes.py", '"ETag": f\'"{entry.stamp[1]}"\'', '"ETag": f\'W/"{entry.stamp[1]}"\''),
        tests=UNUSUAL,
        message="and If-Match needs a strong tag",
    ),
    plant(
        "refused-method-in-plain-text",
        "405 needs no document.",
        (
            "http/routes.py",
            'raise HTTPException(405, "This path does not support the method.", allow)',
            "return Response(status_code=405, headers=allow)",
        ),
        tests=METHODS,
        message="an error is application/problem+json, not",
    ),
    plant(
        "delete-of-nothing-succeeds",
        "It is not there, and that was the wish.",
        (
            "http/routes.py",
            "            if created is None:\n                await self._raise_not_updated(campaign_id)\n        except",
            (
                "            if created is None and await self._campaigns.get(campaign_id) is None:\n"
                "                return Response(status_code=204)\n"
                "            if created is None:\n                await self._raise_not_updated(campaign_id)\n        except"
            ),
        ),
        tests=WRONG,
        message="DELETE with an id that no campaign has in a DELETE gets 204, not 404",
    ),
    plant(
        "change-of-nothing-is-412",
        "No row has matched, so the version is another one.",
        (
            "http/routes.py",
            (
                "        if await self._campaigns.get(campaign_id) is None:\n"
                '            raise HTTPException(404, "There is no such campaign.")\n        raise HTTPException(412'
            ),
            "        raise HTTPException(412",
        ),
        tests=WRONG,
        message="PUT with an id that no campaign has in a PUT gets 412, not 404",
    ),
    plant(
        "message-may-be-missing",
        "A draft has no message yet.",
        ("postgres/campaigns.py", 'required=("name", "message"))', 'required=("name",))'),
        ("postgres/campaigns.py", 'fields["name"], fields["message"])', 'fields["name"], fields.get("message", ""))'),
        tests=WRONG,
        message="POST with a body without a message gets 201, not 422",
    ),
    plant(
        "empty-texts-accepted",
        "A text has a maximum.",
        (
            "postgres/campaigns.py",
            "not 1 <= len(value) <= MAX_LENGTH[name]",
            "not len(value) <= MAX_LENGTH[name]",
        ),
        tests=WRONG,
        message="POST with an empty name gets 201, not 422",
    ),
    plant(
        "cadence-of-any-type",
        "Clients forget the header.",
        (
            "http/routes.py",
            "    _check_content_type(request)\n    too_large",
            '    if not request.url.path.endswith("/cadence"):\n        _check_content_type(request)\n    too_large',
        ),
        tests=WRONG,
        message="PUT with a cadence of another type gets 200, not 415",
    ),
    plant(
        "any-version-is-no-version",
        "A tag has quotes.",
        ("http/routes.py", 'if if_match is None or if_match.strip() == "*":', "if if_match is None:"),
        tests=UNUSUAL,
        message="If-Match: * matches every version, and PUT gets 412, not 200",
    ),
    plant(
        "cadences-not-described",
        "The description has the important routes.",
        ("http/openapi.py", "CAMPAIGNS | JOBS | CADENCES | CONTACTS", "CAMPAIGNS | JOBS | CONTACTS"),
        tests=METHODS,
        message="/openapi.json describes None of /api/campaigns/{id}/cadence",
    ),
    plant(
        "heads-of-63-kib",
        "Leave a KiB for the request line.",
        ("http/connections.py", "MAX_HEAD_BYTES = 64 << 10", "MAX_HEAD_BYTES = 63 << 10"),
        tests=UNUSUAL,
        message="a head of 65.3 KB gets 431, and it may have 64 KiB",
    ),
    plant(
        "import-of-no-type",
        "Clients forget the header.",
        ("http/contact_routes.py", "        len(content_types) != 1\n", "        len(content_types) > 1\n"),
        ("http/contact_routes.py", '(content_types or [""])', '(content_types or ["text/csv"])'),
        tests=WRONG,
        message="POST with a file of no type gets 200, not 415",
    ),
)
