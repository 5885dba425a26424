"""Plants that show only when no file descriptor is left."""

from __future__ import annotations

from plants.plant import plant

REQUESTS = "test_descriptors.py::test_without_descriptors_each_request_is_answered_or_503_and_later_all_are_answered"
WEBSOCKET = "test_descriptors.py::test_without_descriptors_a_websocket_is_503_and_later_it_is_accepted"
LOOP = "test_descriptors.py::test_a_loop_without_descriptors_costs_one_line_of_the_log_and_runs_again"

PLANTS = (
    plant(
        "codec-imported-by-a-request",
        "Python has a codec for the byte order mark.",
        ("http/routes.py", "body.removeprefix(codecs.BOM_UTF8).decode()", 'body.decode("utf-8-sig")'),
        tests=REQUESTS,
        message="for which it needs no file",
    ),
    plant(
        "no-descriptor-is-500",
        "Only memory runs out.",
        ("shortages.py", '    errno.EMFILE: "file descriptors",\n', ""),
        tests=REQUESTS,
        message="gets 500, not 200 or 503",
    ),
    plant(
        "no-descriptor-line-per-request",
        "Then the log shows which requests failed.",
        ("shortages.py", "        if resource not in self._failed_at:\n", "        if resource:\n"),
        tests=REQUESTS,
        message="lines of the log, not one",
    ),
    plant(
        "live-updates-imported-by-one-task",
        "One task imports it, and all requests await that task.",
        (
            "http/live_updates.py",
            '                socketio: Any = await asyncio.to_thread(importlib.import_module, "socketio")\n',
            '                if not hasattr(self, "_import"):\n                    self._import = asyncio.ensure_future(asyncio.to_thread(importlib.import_module, "socketio"))\n                socketio: Any = await self._import\n',
        ),
        tests=REQUESTS,
        message="descriptors are free again, and GET /socket.io/",
    ),
    plant(
        "websocket-import-unguarded",
        "The middleware handles what a request needs.",
        (
            "http/connections.py",
            '        except Exception as error:\n            resource = self.tracker.shortages.report(error, "to open a websocket")\n',
            '        except KeyError as error:\n            resource = self.tracker.shortages.report(error, "to open a websocket")\n',
        ),
        tests=WEBSOCKET,
        message="a websocket gets",
    ),
    plant(
        "loop-without-descriptors-has-a-traceback",
        "A traceback never hurts.",
        (
            "app.py",
            '            if shortages.report(error, "for a background task, which is restarted") is None:\n',
            '            if shortages.report(error, "for a background task, which is restarted") != "memory":\n',
        ),
        tests=LOOP,
        message="an unhandled error reached the log",
    ),
    plant(
        "loop-without-descriptors-ends",
        "Nothing can be done without descriptors.",
        (
            "app.py",
            '                logging.getLogger("service").exception("Background task failed; restarting")\n',
            '                logging.getLogger("service").exception("Background task failed; restarting")\n            else:\n                await asyncio.Event().wait()\n',
        ),
        tests=LOOP,
        message="the loop that failed does not run again",
    ),
    plant(
        "descriptors-back-unnoticed",
        "Good news needs no line.",
        ("shortages.py", '                log.info("resolved: %s", END[resource])\n', ""),
        tests=LOOP,
        message="descriptors are free again, and no line of the log reports it",
    ),
    plant(
        "descriptors-short-only-once",
        "Operators know by now.",
        ("shortages.py", "                del self._failed_at[resource]\n", ""),
        tests=LOOP,
        message="descriptors are used up a second time, and no line",
    ),
    plant(
        "descriptors-back-logged-once-in-a-life",
        "An operator knows by then.",
        (
            "shortages.py",
            '                log.info("resolved: %s", END[resource])',
            '                if resource in END:\n                    log.info("resolved: %s", END.pop(resource))',
        ),
        tests=LOOP,
        message="descriptors are free again for the second time, and no line",
    ),
)
