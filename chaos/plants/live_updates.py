"""Plants in live updates."""

from __future__ import annotations

from plants.plant import plant

ALL = "test_live_updates.py::test_progress_reaches_the_clients_of_all_instances"
NO_REDIS = "test_live_updates.py::test_without_redis_an_instance_serves_its_own_clients_and_the_others_follow_later"
RECONNECT = "test_live_updates.py::test_a_client_that_reconnects_gets_the_present_state"
AGAIN = "test_live_updates.py::test_events_of_other_instances_come_again_after_an_outage_of_redis"
SLOW = "test_live_updates.py::test_a_slow_client_costs_other_clients_nothing_and_is_disconnected"
ROOM = "test_live_updates.py::test_clients_of_live_updates_do_not_take_the_connections_of_requests"
MEMORY = "test_live_updates.py::test_no_websocket_is_accepted_while_memory_is_short"
SHUTDOWN = "test_live_updates.py::test_a_shutdown_closes_websockets_with_1012_and_ends_polls_at_once"
ORIGIN = "test_live_updates.py::test_a_page_of_another_origin_cannot_connect"
SIZE = "test_live_updates.py::test_a_message_may_have_16_kib_and_not_a_byte_more"
SUBSCRIPTION = "test_live_updates.py::test_a_refused_subscription_is_logged_once_and_tried_again"
WAITING = "test_live_updates.py::test_200_packets_wait_for_a_client_and_not_one_more"

PLANTS = (
    plant(
        "live-updates-of-one-instance",
        "The clients are all here.",
        (
            "jobs/progress_feed.py",
            "        self._publish_later(progress)\n        self._spread(progress)\n",
            "        self._spread(progress)\n",
        ),
        tests=ALL,
        message="does not learn that",
    ),
    plant(
        "live-updates-need-redis",
        "The message comes back from Redis anyway.",
        (
            "jobs/progress_feed.py",
            "        self._publish_later(progress)\n        self._spread(progress)\n",
            "        self._publish_later(progress)\n        if self._redis.up:\n            self._spread(progress)\n",
        ),
        tests=NO_REDIS,
        message="a client does not get the progress of its own instance",
    ),
    plant(
        "live-updates-of-an-outage-dropped",
        "It is only progress.",
        (
            "jobs/progress_feed.py",
            "        self._unpublished[progress.id] = progress\n",
            "        if not self._redis.up:\n            return\n        self._unpublished[progress.id] = progress\n",
        ),
        tests=NO_REDIS,
        message="other instances do not get the progress that they missed",
    ),
    plant(
        "live-updates-listen-once",
        "A lost connection is a bug, and the log has it.",
        (
            "cache/channel.py",
            "                self._log_failure(error)\n",
            "                self._log_failure(error)\n                return\n",
        ),
        tests=AGAIN,
        message="events of other instances do not come",
    ),
    plant(
        "live-state-from-memory",
        "It has seen every change.",
        (
            "jobs/progress_feed.py",
            "            return await self._read(campaign_id)\n",
            "            return CampaignProgress(campaign_id, 0, 0, 'draft')\n",
        ),
        tests=RECONNECT,
        message="the state of a campaign",
    ),
    plant(
        "live-updates-wait-without-bound",
        "The client will catch up.",
        ("http/live_updates.py", "        if packet is None or self.qsize() < MAX_QUEUED:\n", "        if True:\n"),
        tests=SLOW,
        message="for a client that does not read",
    ),
    plant(
        "live-updates-take-all-connections",
        "They are clients, too.",
        ("http/live_updates.py", "MAX_SHARE = 0.5", "MAX_SHARE = 1.0"),
        tests=ROOM,
        message="of 24 connections live updates get",
    ),
    plant(
        "websockets-not-shed",
        "Only requests are load.",
        ("http/load_shedding.py", '        if scope["type"] == "lifespan":', '        if scope["type"] != "http":'),
        tests=MEMORY,
        message="memory is short, and a websocket gets",
    ),
    plant(
        "drain-waits-for-polls",
        "A request is a request.",
        (
            "http/load_shedding.py",
            "            with contextlib.nullcontext() if is_live else self._lifecycle.track_request():\n",
            "            with self._lifecycle.track_request():\n",
        ),
        tests=SHUTDOWN,
        message="clients of live updates delay the end of the service",
    ),
    plant(
        "polls-not-ended",
        "They end after their time.",
        ("http/live_updates.py", "                await _disconnect(socket)\n", "                continue\n"),
        tests=SHUTDOWN,
        message="clients of live updates delay the end of the service",
    ),
    plant(
        "stuck-websockets-awaited",
        "A clean end needs the answer of the client.",
        (
            "http/websockets.py",
            "        if self.transport.get_write_buffer_size() > 0:\n",
            "        if self.transport.get_write_buffer_size() < 0:\n",
        ),
        tests=SHUTDOWN,
        message="clients of live updates delay the end of the service",
    ),
    plant(
        "websockets-cut",
        "The process ends anyway.",
        ("http/websockets.py", "        super().shutdown()\n", "        self.evict()\n"),
        tests=SHUTDOWN,
        message="a websocket is closed with 0, not 1012",
    ),
    plant(
        "live-updates-of-any-origin",
        "CORS is the browser's business.",
        (
            "http/live_updates.py",
            "            http_compression=False,\n",
            '            http_compression=False,\n            cors_allowed_origins="*",\n',
        ),
        tests=ORIGIN,
        message="a page of another origin that polls gets 200",
    ),
    plant(
        "live-messages-of-a-mebibyte",
        "It is the default of the library.",
        ("http/connections.py", "MAX_MESSAGE_BYTES = 16 << 10", "MAX_MESSAGE_BYTES = 1 << 20"),
        tests=SIZE,
        message="a message of 16385 bytes to the service is accepted",
    ),
    plant(
        "live-messages-of-8-kib",
        "An id is short.",
        ("http/connections.py", "MAX_MESSAGE_BYTES = 16 << 10", "MAX_MESSAGE_BYTES = 8 << 10"),
        tests=SIZE,
        message="a message of 16384 bytes to the service is refused",
    ),
    plant(
        "live-state-of-no-campaign-unanswered",
        "There is nothing to answer.",
        (
            "http/live_updates.py",
            '        return {"error": "There is no such campaign."} if progress is None else asdict(progress)',
            "        return asdict(progress)  # type: ignore[arg-type]",
        ),
        tests=RECONNECT,
        message="a request for the state of campaign",
    ),
    plant(
        "live-state-needs-postgres",
        "It answers when Postgres does.",
        (
            "http/live_updates.py",
            '        except Unavailable as error:\n            return {"error": error.detail}\n',
            "        except Unavailable:\n            raise\n",
        ),
        tests=RECONNECT,
        message="Postgres is down, and a request for a state is answered with {}",
    ),
    plant(
        "live-missed-not-read",
        "The next event comes soon.",
        ("jobs/progress_feed.py", '                if known.status == "sending":\n', "                if False:\n"),
        tests=AGAIN,
        message="afterwards a client does not get its newest progress",
    ),
    plant(
        "live-clients-never-leave",
        "Count the connects.",
        (
            "http/live_updates.py",
            "        return 0 if self._server is None else len(self._server.eio.sockets)",
            '        self._most = max(getattr(self, "_most", 0), 0 if self._server is None else len(self._server.eio.sockets))\n        return self._most',
        ),
        tests=ROOM,
        message="all clients have left, and the metrics count",
    ),
    plant(
        "messages-not-counted",
        "Nothing is sent.",
        ("jobs/gateway.py", '        log.info("%d messages of %s (no', '        log.debug("%d messages of %s (no'),
        tests=RECONNECT,
        message="messages are counted in the log",
    ),
    plant(
        "subscription-refused-in-silence",
        "Redis is up.",
        (
            "cache/channel.py",
            '            log.warning("messages of other instances are not',
            '            log.debug("messages of other instances are not',
        ),
        tests=SUBSCRIPTION,
        message="Redis refuses a subscription (episode 1), and no line",
    ),
    plant(
        "subscription-refused-is-the-end",
        "Rights do not come back.",
        (
            "cache/channel.py",
            "                self._log_failure(error)\n",
            "                self._log_failure(error)\n                if _is_refusal(error):\n                    return\n",
        ),
        tests=SUBSCRIPTION,
        message="Redis allows a subscription again (episode 1), and no line",
    ),
    plant(
        "live-updates-199-wait",
        "The packet that is being sent counts, too.",
        ("http/live_updates.py", "self.qsize() < MAX_QUEUED:", "self.qsize() + 1 < MAX_QUEUED:"),
        tests=WAITING,
        message="200 packets waited for a client, as many as may",
    ),
    plant(
        "live-updates-201-wait",
        "At most 200 wait before a packet is added.",
        ("http/live_updates.py", "self.qsize() < MAX_QUEUED:", "self.qsize() <= MAX_QUEUED:"),
        tests=WAITING,
        message="201 packets waited for a client, 200 may",
    ),
    plant(
        "live-updates-dropped-for-slow-clients",
        "A slow client may skip some progress.",
        ("http/live_updates.py", "            self._on_full(self)\n", ""),
        tests=WAITING,
        message="201 packets waited for a client, 200 may",
    ),
    plant(
        "subscription-refused-logged-once-in-a-life",
        "An operator knows by then.",
        ("cache/channel.py", "and not self._failed:", "and self._failed is False:"),
        (
            "cache/channel.py",
            "            self._failed = False\n            log",
            "            self._failed = None\n            log",
        ),
        tests=SUBSCRIPTION,
        message="Redis refuses a subscription (episode 2)",
    ),
    plant(
        "subscription-refused-without-a-reason",
        "Redis knows why.",
        ("cache/channel.py", 'not received: %s", failure_reason(error))', 'not received: %s", "refused")'),
        tests=SUBSCRIPTION,
        message="Redis refuses a subscription, and the log names the reason ' refused'",
    ),
    plant(
        "subscription-refused-with-a-type-only",
        "The type says enough.",
        ("cache/channel.py", 'not received: %s", failure_reason(error))', 'not received: %s", type(error).__name__)'),
        tests=SUBSCRIPTION,
        message="Redis refuses a subscription, and the log names the reason ' NoPermissionError'",
    ),
    plant(
        "lost-subscription-is-a-refused-one",
        "Messages are not received, whatever the reason.",
        ("cache/channel.py", "        is_certain = _is_refusal(error) or", "        is_certain = True or"),
        tests=AGAIN,
        message="Redis was down, and the log reports that it refuses a subscription",
    ),
    plant(
        "live-updates-end-with-the-first-client",
        "A client that leaves needs no more events.",
        (
            "http/live_updates.py",
            "        if all(socket.closing for socket in sockets.values()):\n            self._feed.unfollow()",
            "        self._feed.unfollow()",
        ),
        tests=WAITING,
        message="one client was disconnected, and another one gets no more events of other instances",
    ),
    plant(
        "live-state-of-the-first-step",
        "A campaign is sent once.",
        ("postgres/deliveries.py", "SELECT max(step) FROM deliveries", "SELECT min(step) FROM deliveries"),
        tests=RECONNECT,
        message="two contacts have the first step and one has the second, and the state has 2 sent",
    ),
    plant(
        "live-updates-full-without-retry-after",
        "Clients of Socket.IO reconnect in their own time.",
        (
            "http/live_updates.py",
            '"There are too many clients of live updates.", retry_after=5)',
            '"There are too many clients of live updates.", retry_after=None)',
        ),
        tests=ROOM,
        message="a 503 has no Retry-After header",
    ),
    plant(
        "live-polls-of-a-mebibyte",
        "A poll is a request, and a request may have a MiB.",
        ("http/live_updates.py", "max_http_buffer_size=MAX_MESSAGE_BYTES", "max_http_buffer_size=1 << 20"),
        tests=SIZE,
        message="a client that polls connects and sends a message of 16385 bytes, and gets [200, 200]",
    ),
    plant(
        "live-updates-follow-once",
        "It listens from then on.",
        (
            "cache/channel.py",
            "        self._wanted.set()",
            '        if not hasattr(self, "_once"):\n            self._once = True\n            self._wanted.set()',
        ),
        tests=ALL,
        message="the next one gets no events of other instances",
    ),
    plant(
        "live-updates-total-is-what-is-sent",
        "The total is known at the end.",
        (
            "jobs/processor.py",
            'report.update(sent, max(sent, total), "sending")',
            'report.update(sent, sent, "sending")',
        ),
        tests=ALL,
        message="a campaign is sent to 50 contacts, and events have another total",
    ),
    plant(
        "live-updates-without-an-end",
        "The last batch has the last progress.",
        ("jobs/processor.py", '        report.update(sent, total, "sent")\n', ""),
        tests=ALL,
        message="a campaign is sent, and a client of the instance of the request does not learn that",
    ),
)
