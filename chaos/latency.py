"""The times of a route that must not wait, compared with a server that no fault affects."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

import healthy
from pytest_resilience import Resilience
from workload import TimedReply, timed

MIN_REQUESTS = 100
MIN_SECONDS = 1.0  # so that periodic work of the service falls into the sample
# Maximum share of the time spent on slow responses. One client at a time meets a long stall only once, so p99 hides it.
MAX_STALLED_SHARE = 0.25
CONTROL_SERVER = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(204)
        self.end_headers()
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@contextmanager
def control_server() -> Iterator[str]:
    """Run a trivial HTTP server that no fault affects, as the control. Its delays are those of a busy machine."""
    with subprocess.Popen(
        [sys.executable, "-c", CONTROL_SERVER], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    ) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def p99(replies: list[TimedReply]) -> float:
    """Return the 99th percentile of the times, in seconds."""
    return sorted(reply.seconds for reply in replies)[-1 - len(replies) // 100]


def slow_times(replies: list[TimedReply], limit: float) -> list[float]:
    """Return the times above a limit, in seconds."""
    return [reply.seconds for reply in replies if reply.seconds > limit]


def timing_problem(replies: list[TimedReply], limit: float) -> str:
    """Describe why the times break the promise, or return an empty string if they keep it."""
    seconds = [reply.seconds for reply in replies]
    stalled = sum(slow_times(replies, limit)) / sum(seconds)
    if p99(replies) < limit and stalled < MAX_STALLED_SHARE:
        return ""
    return (
        f"{p99(replies) * 1000:.0f} ms at p99, {max(seconds) * 1000:.0f} ms at worst, stalled {stalled:.0%} of the time"
    )


def sample(
    resilience: Resilience,
    path: str,
    control: httpx.Client,
    *,
    requests: int = MIN_REQUESTS,
    seconds: float = MIN_SECONDS,
) -> tuple[list[TimedReply], float]:
    """Request a path at a steady rate, alternating with the control server, and stop early if it is clearly too slow.

    Args:
        resilience: provides the service.
        path: of the route.
        control: a client of the control server.
        requests: number of requests, at least.
        seconds: length of the sample, at least.

    Returns:
        The replies of the route, and the limit in seconds above which a reply counts as slow on this machine now.
    """
    replies: list[TimedReply] = []
    controls: list[TimedReply] = []
    begin = time.monotonic()
    while len(replies) < requests or time.monotonic() - begin < seconds:
        time.sleep(
            max(0.0, begin + len(replies) * seconds / requests - time.monotonic())
        )  # is the rate of a load, and costs no CPU
        replies.append(timed(lambda: resilience.service.get(path)))
        controls.append(timed(lambda: control.get("/")))
        if len(replies) % 10 == 0:
            limit = max(healthy.HEALTH_P99, 3 * p99(controls))
            if len(slow_times(replies, limit)) > requests // 100 and timing_problem(replies, limit):
                break
    return replies, max(healthy.HEALTH_P99, 3 * p99(controls))
