"""Plants at the edge of the process, in its connections, callers, settings and log."""

from __future__ import annotations

from plants.plant import plant

HELD = "test_edge.py::test_silent_and_half_sent_requests_are_closed_after_their_timeout"
ROOM = "test_edge.py::test_at_max_connections_idle_clients_are_evicted_and_health_still_answers"
DESCRIPTORS = "test_edge.py::test_the_default_of_max_connections_leaves_descriptors_for_postgres_and_redis"
HEADERS = "test_edge.py::test_forwarding_headers_do_not_change_who_the_caller_is"
PAGES = "test_edge.py::test_cross_site_requests_cannot_trigger_a_cleanup"
TOKEN = "test_edge.py::test_only_the_exact_token_is_accepted"
CERTIFICATE = "test_edge.py::test_no_token_is_sent_to_a_server_whose_certificate_does_not_verify"
PORT = "test_edge.py::test_a_port_in_use_ends_the_start_with_one_log_line"
RANGE = "test_edge.py::test_every_numeric_setting_rejects_malformed_and_out_of_range_values"
JSON = "test_edge.py::test_every_line_of_a_json_log_is_json"
BODY = "test_edge.py::test_unexpected_body_fields_get_a_short_422"
DELETION = "test_edge.py::test_a_delete_with_another_version_is_refused"
ABSOLUTE = "test_edge.py::test_request_targets_in_absolute_form_are_served"
HOPELESS = "test_edge.py::test_a_setting_that_can_never_work_ends_the_start_and_others_do_not"

PLANTS = (
    plant(
        "silent-clients-held",
        "Clients close when they are done.",
        ("__main__.py", "        self._connections.sweep()\n", ""),
        tests=HELD,
        message="clients stay connected with",
    ),
    plant(
        "head-time-for-each-byte",
        "A client that sends is alive.",
        (
            "http/connections.py",
            "        if not self._is_busy() and not self._reading_head and self.conn.their_state is h11.IDLE:",
            "        if not self._is_busy():",
        ),
        tests=HELD,
        message="clients stay connected with half a head",
    ),
    plant(
        "slow-bodies-held",
        "A mobile network is slow.",
        ("http/routes.py", "        async with asyncio.timeout(seconds):", "        async with asyncio.timeout(None):"),
        tests=HELD,
        message="clients stay connected with a slow body",
    ),
    plant(
        "half-a-head-gets-no-408",
        "Such a client does not read.",
        (
            "http/connections.py",
            "            if self._reading_head and self.conn.trailing_data[0]:",
            "            if False:",
        ),
        tests=HELD,
        message="it ends with a 408",
    ),
    plant(
        "connections-without-a-bound",
        "The kernel has one.",
        (
            "http/connections.py",
            "        if len(self._open) > self._max_connections:",
            "        if len(self._open) > 1_000_000:",
        ),
        tests=ROOM,
        message="connections are held",
    ),
    plant(
        "newest-make-room",
        "First come, first served.",
        ("http/connections.py", "            if not self._evict(1):", "            if True:"),
        tests=ROOM,
        message="and other requests get",
    ),
    plant(
        "no-connection-for-health",
        "Full is full.",
        (
            "http/connections.py",
            "                connection.only_essential = True\n",
            "                connection.evict()\n",
        ),
        tests=ROOM,
        message="requests are not refused",
    ),
    plant(
        "descriptors-all-for-clients",
        "Clients are what we are here for.",
        ("http/connections.py", "limit - others\n", "limit\n"),
        tests=DESCRIPTORS,
        message="clients took",
    ),
    plant(
        "server-believes-headers",
        "There is a balancer in front.",
        (
            "__main__.py",
            "proxy_headers=False,  # the address of the socket decides about the cleanup",
            'proxy_headers=True, forwarded_allow_ips="*",',
        ),
        tests=HEADERS,
        message="X-Forwarded-For decides who the caller is",
    ),
    plant(
        "proxy-on-this-machine-is-local",
        "It is 127.0.0.1, isn't it?",
        ("postgres/cleanup.py", "    if any(name in headers for name in PROXY_HEADERS):", "    if False:"),
        tests=HEADERS,
        message="that came through a proxy needs the token",
    ),
    plant(
        "any-host-name-is-local",
        "The request arrived here, so it was meant for this service.",
        (
            "postgres/cleanup.py",
            'name == "localhost" or name.endswith(".localhost") or is_loopback(name) or name == named',
            "name",
        ),
        tests=PAGES,
        message="a page of another site may clean up: GET {'Host'",
    ),
    plant(
        "any-origin-is-allowed",
        "CORS is the browser's business.",
        ("postgres/cleanup.py", '    for origin in headers.getlist("origin"):', "    for origin in ():"),
        tests=PAGES,
        message="a page of another site may clean up: GET {'Origin'",
    ),
    plant(
        "any-site-is-allowed",
        "A picture can do no harm.",
        ("postgres/cleanup.py", 'not in ("same-origin", "none")', '== "never"'),
        tests=PAGES,
        message="a page of another site may clean up: GET {'Sec-Fetch-Site'",
    ),
    plant(
        "token-by-its-beginning",
        "The beginning is unique.",
        (
            "postgres/cleanup.py",
            "hmac.compare_digest(token.strip().encode(), expected.encode())",
            "expected.startswith(token.strip())",
        ),
        tests=TOKEN,
        message="gets 200, not 403",
    ),
    plant(
        "token-in-any-case",
        "Users mistype.",
        (
            "postgres/cleanup.py",
            "hmac.compare_digest(token.strip().encode(), expected.encode())",
            "token.strip().lower() == expected.lower()",
        ),
        tests=TOKEN,
        message="gets 200, not 403",
    ),
    plant(
        "token-in-ascii-only",
        "Tokens are ASCII.",
        (
            "postgres/cleanup.py",
            "hmac.compare_digest(token.strip().encode(), expected.encode())",
            "hmac.compare_digest(token.strip(), expected)",
        ),
        tests=TOKEN,
        message="gets 500, not 403",
    ),
    plant(
        "certificate-not-verified",
        "It is encrypted anyway.",
        (
            "cache/redis_store.py",
            "                ssl=True,\n",
            '                ssl=True,\n                ssl_cert_reqs="none",\n',
        ),
        tests=f"{CERTIFICATE}[unknown authority]",
        message="and the service sent",
    ),
    plant(
        "certificate-of-any-name",
        "Only the authority matters.",
        (
            "cache/redis_store.py",
            "                ssl=True,\n",
            "                ssl=True,\n                ssl_check_hostname=False,\n",
        ),
        tests=f"{CERTIFICATE}[wrong host name]",
        message="and the service sent",
    ),
    plant(
        "port-shared",
        "A restart should not fail.",
        (
            "__main__.py",
            "        listener.bind(address)\n",
            "        try:\n            listener.bind(address)\n        except OSError:\n            listener.bind((address[0], 0))\n",
        ),
        tests=PORT,
        message="the port is in use, and the service starts nevertheless",
    ),
    plant(
        "taken-port-is-a-traceback",
        "The traceback has all details.",
        (
            "__main__.py",
            "    except (OSError, ValueError) as error:  # ValueError",
            "    except ValueError as error:  # ValueError",
        ),
        tests=PORT,
        message="a port in use is reported in one line",
    ),
    plant(
        "start-error-in-clear",
        "That line is not parsed by programs.",
        (
            "logging_setup.py",
            '    if log_format != "json":\n        return f"service',
            '    if True:\n        return f"service',
        ),
        tests=PORT,
        message="LOG_FORMAT is json, and the line that ends the start is not JSON",
    ),
    plant(
        "settings-nan",
        "float() knows what a number is.",
        ("settings.py", "    if not lowest <= value <= highest:", "    if value < lowest or value > highest:"),
        tests=RANGE,
        message="malformed or out-of-range values are accepted",
    ),
    plant(
        "settings-without-bounds",
        "Operators know their settings.",
        ("settings.py", "    if not lowest <= value <= highest:", "    if math.isnan(value):"),
        tests=RANGE,
        message="malformed or out-of-range values are accepted",
    ),
    plant(
        "json-in-name-only",
        "A line break is a line break.",
        (
            "logging_setup.py",
            "JSONRenderer(ensure_ascii=True)",
            "JSONRenderer(ensure_ascii=False, indent=0)",
        ),
        tests=JSON,
        message="LOG_FORMAT is json, and a line is not JSON",
    ),
    plant(
        "json-without-the-server",
        "uvicorn has its own format.",
        ("__main__.py", "        log_config=None,\n", ""),
        tests=JSON,
        message="LOG_FORMAT is json, and a line is not JSON",
    ),
    plant(
        "body-names-repeated",
        "Clients should see their mistake.",
        (
            "postgres/campaigns.py",
            "for name in unknown[:MAX_PROBLEMS]}",
            "for name in unknown}",
        ),
        tests=BODY,
        message="gets a response of",
    ),
    plant(
        "half-a-pair-is-500",
        "JSON is UTF-8.",
        ("postgres/campaigns.py", '    return name[:50].encode("utf-8", "replace").decode()', "    return name[:50]"),
        tests=BODY,
        message="a body with half a surrogate pair gets 500",
    ),
    plant(
        "deletion-whatever-the-version",
        "Gone is gone.",
        ("http/routes.py", "delete(campaign_id, allowed_versions(_if_match(request)))", "delete(campaign_id, None)"),
        tests=DELETION,
        message="DELETE with If-Match",
    ),
    plant(
        "tags-as-numbers",
        "A version is a number.",
        (
            "http/routes.py",
            'VERSION_NUMBER = re.compile(r"[1-9][0-9]{0,18}")',
            'VERSION_NUMBER = re.compile(r"[0-9]{1,18}")',
        ),
        tests=DELETION,
        message='DELETE with If-Match: "01"',
    ),
    plant(
        "ten-tags-are-enough",
        "No client sends more.",
        ("http/routes.py", "ENTITY_TAG.findall(if_match) if", "ENTITY_TAG.findall(if_match)[:10] if"),
        tests=DELETION,
        message="the right tag is the last of 50",
    ),
    plant(
        "absolute-targets-unknown",
        "Only proxies send those.",
        (
            "http/connections.py",
            "    absolute = ABSOLUTE_TARGET.fullmatch(",
            "    absolute = None and ABSOLUTE_TARGET.fullmatch(",
        ),
        tests=ABSOLUTE,
        message="GET http://host/health gets",
    ),
    plant(
        "unread-responses-held",
        "The client will read them at some point.",
        (
            "http/connections.py",
            "        super().pause_writing()\n        self._write_deadline = self.tracker.deadline()",
            "        super().pause_writing()",
        ),
        tests=HELD,
        message="clients stay connected with responses that they do not read",
    ),
    plant(
        "busy-without-retry-after",
        "The connection is closed anyway.",
        (
            "http/connections.py",
            ', headers={"Connection": "close"}, retry_after=1)',
            ', headers={"Connection": "close"})',
        ),
        tests=ROOM,
        message="a 503 has no Retry-After header",
    ),
    plant(
        "no-connection-for-metrics",
        "A scrape can wait.",
        ("http/connections.py", 'scope["path"] in ESSENTIAL_PATHS:', 'scope["path"] in ESSENTIAL_PATHS[:3]:'),
        tests=ROOM,
        message="all connections are busy, and /metrics gets",
    ),
    plant(
        "no-connection-for-the-cleanup",
        "Health is what matters.",
        ("http/connections.py", 'scope["path"] in ESSENTIAL_PATHS:', 'scope["path"] in ESSENTIAL_PATHS[:4]:'),
        tests=ROOM,
        message="all connections are busy, and /api/db-cleanup gets",
    ),
    plant(
        "full-line-for-each-client",
        "Then the log shows how many are refused.",
        ("http/connections.py", "            if not self._full:\n", "            if True:\n"),
        tests=ROOM,
        message="lines of the log report it, not one",
    ),
    plant(
        "full-for-ever",
        "Good news needs no line.",
        ("http/connections.py", "        if self._full and len(", "        if False and len("),
        tests=ROOM,
        message="connections are free again, and no line of the log reports it",
    ),
    plant(
        "proxies-in-via-trusted",
        "Via is for caches.",
        ("postgres/cleanup.py", ', "x-real-ip", "via")', ', "x-real-ip")'),
        tests=HEADERS,
        message="a loopback request that came through a proxy needs the token",
    ),
    plant(
        "forwarded-host-trusted",
        "It is not an address.",
        ("postgres/cleanup.py", '"x-forwarded-host", "x-forwarded-proto", ', ""),
        tests=HEADERS,
        message="a loopback request that came through a proxy needs the token",
    ),
    plant(
        "typed-addresses-refused",
        "Only pages of the service may do that.",
        ("postgres/cleanup.py", '("same-origin", "none")', '("same-origin",)'),
        tests=PAGES,
        message="a caller on this machine may clean up, and with",
    ),
    plant(
        "localhost-refused",
        "Everybody uses 127.0.0.1.",
        ("postgres/cleanup.py", 'name == "localhost" or name.endswith(".localhost") or ', ""),
        tests=PAGES,
        message="a caller on this machine may clean up, and with",
    ),
    plant(
        "absolute-target-keeps-the-host",
        "The header names the host.",
        (
            "http/connections.py",
            '    scope["headers"] = [(b"host", host), *((name, value) for name, value in scope["headers"] if name != b"host")]\n',
            "",
        ),
        tests=ABSOLUTE,
        message="only the Host header is local: the cleanup gets",
    ),
    plant(
        "urls-not-checked",
        "The first connect will show it.",
        (
            "settings.py",
            "        problem = find_problem(text)\n        if problem is not None:",
            "        problem = find_problem(text)\n        if False:",
        ),
        tests=HOPELESS,
        message="can never work, and the service starts with it",
    ),
    plant(
        "certificates-not-checked",
        "The first handshake will show it.",
        ("settings.py", "        problem = url_checks.certificates_problem(text)\n", "        problem = None\n"),
        tests=HOPELESS,
        message="can never work, and the service starts with it",
    ),
    plant(
        "upstash-without-a-token",
        "Then there is no password.",
        (
            "settings.py",
            "for given, missing in (_UPSTASH, _UPSTASH[::-1]):",
            "for given, missing in (_UPSTASH[::-1],):",
        ),
        tests=HOPELESS,
        message="can never work, and the service starts with it",
    ),
    plant(
        "unknown-format-is-console",
        "Any other text is console.",
        ("settings.py", 'text not in ("console", "json"):', "False:"),
        tests=HOPELESS,
        message="can never work, and the service starts with it",
    ),
    plant(
        "libpq-parameters-passed-on",
        "asyncpg knows the parameters of Postgres.",
        ("url_checks.py", "    if unknown is not None:", "    if False:"),
        tests=HOPELESS,
        message="can never work, and the service starts with it",
    ),
    plant(
        "lists-of-hosts-refused",
        "One server has one host.",
        (
            "url_checks.py",
            "    for address in addresses:\n",
            '    if len(addresses) > 1:\n        return "it names two servers"\n    for address in addresses:\n',
        ),
        tests=HOPELESS,
        message="can work, and ends the start (DATABASE_URL)",
    ),
    plant(
        "ports-up-to-99999",
        "Five digits.",
        ("settings.py", '"port": (0, 65_535)', '"port": (0, 99_999)'),
        tests=HOPELESS,
        message="{'PORT': '65536'} can never work",
    ),
    plant(
        "json-without-threads",
        "Threads print their own errors.",
        ("logging_setup.py", "    threading.excepthook = _on_thread_exception\n", ""),
        tests=JSON,
        message="a line is not JSON",
    ),
    plant(
        "json-without-warnings",
        "Warnings are for developers.",
        ("logging_setup.py", "    logging.captureWarnings(True)\n", ""),
        tests=JSON,
        message="a line is not JSON",
    ),
    plant(
        "idle-connections-held",
        "uvicorn closes them after 5 s.",
        (
            "http/connections.py",
            "        self._reading_head, self._read_deadline = next_head_begun, self.tracker.deadline()",
            "        self._reading_head, self._read_deadline = next_head_begun, self.tracker.deadline() if next_head_begun else None",
        ),
        tests=HELD,
        message="clients stay connected with nothing after a request",
    ),
    plant(
        "listens-everywhere",
        "A container has one address.",
        (
            "__main__.py",
            "            settings.host, settings.port, type",
            "            None, settings.port, family=socket.AF_INET, type",
        ),
        tests=HEADERS,
        message="HOST is 127.0.0.1, and",
    ),
    plant(
        "fewer-connections-for-health",
        "Health needs one or two.",
        ("http/connections.py", "ESSENTIAL_RESERVE = 16 ", "ESSENTIAL_RESERVE = 8 "),
        tests=ROOM,
        message="16 more are accepted for the essential routes, and 8 are",
    ),
    plant(
        "one-connection-more-for-health",
        "The listener is no connection.",
        (
            "http/connections.py",
            "                if len(self._open) > self._max_connections + ESSENTIAL_RESERVE:",
            "                if len(self._open) > self._max_connections + ESSENTIAL_RESERVE + 1:",
        ),
        tests=ROOM,
        message="16 more are accepted for the essential routes, and one more is, too",
    ),
    plant(
        "full-only-once",
        "The first time is the news.",
        (
            "http/connections.py",
            "            self._full = False\n            log",
            "            self._full = None\n            log",
        ),
        ("http/connections.py", "            if not self._full:\n", "            if self._full is False:\n"),
        tests=ROOM,
        message="all connections are in use a second time",
    ),
    plant(
        "full-resolved-at-each-sweep",
        "A sweep is cheap.",
        ("http/connections.py", "            self._full = False\n            log", "            log"),
        tests=ROOM,
        message="all connections are in use a second time",
    ),
    plant(
        "refused-connections-not-counted",
        "No route has seen them.",
        (
            "http/connections.py",
            '            self._connection.tracker.requests.add(scope["method"], None, refusal.status_code, 0.0)\n',
            "            pass\n",
        ),
        tests=ROOM,
        message="one GET got a 503 for lack of connections, and the metrics do not count it",
    ),
    plant(
        "any-address-is-a-host-name",
        "HOST is what operators call this machine.",
        (
            "postgres/cleanup.py",
            'named = None if settings.host in ("0.0.0.0", "::") else settings.host.lower()',
            "named = settings.host.lower()",
        ),
        tests=HEADERS,
        message="HOST is 0.0.0.0, which is no name of a machine",
    ),
    plant(
        "json-in-local-time",
        "Operators live in one zone.",
        (
            "logging_setup.py",
            'datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")',
            'datetime.fromtimestamp(seconds).isoformat(timespec="milliseconds") + "Z"',
        ),
        tests=JSON,
        message="UTC, and the time of a line is wrong",
    ),
    plant(
        "newest-idle-connections-make-room",
        "Who came first stays.",
        (
            "http/connections.py",
            "        evicted = list(islice(self._idle, count))\n",
            "        evicted = list(islice(reversed(self._idle), count))\n",
        ),
        tests=ROOM,
        message="the oldest idle connections make room",
    ),
    plant(
        "slow-polls-held",
        "A poll waits for news anyway.",
        (
            "http/live_updates.py",
            "_checked(receive) if is_websocket else body, tracking_send)",
            "_checked(receive) if is_websocket else receive, tracking_send)",
        ),
        tests=HELD,
        message="clients stay connected with a slow body of a poll",
    ),
    plant(
        "slow-polls-are-200",
        "The library has answered.",
        (
            "http/live_updates.py",
            "            if not body.is_late:  # python",
            "            if body is not None:  # python",
        ),
        tests=HELD,
        message="a client with a slow body of a poll gets [b'200'], not [b'408']",
    ),
)
