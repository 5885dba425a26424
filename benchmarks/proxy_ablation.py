"""What each step towards speed gives our proxy: the proxy as it is, and once without each step, in turns.

A row is a variant: the same proxy, with one step taken back (or one more tried that the proxy does not take). Its figures are
the rate of the proxy as it is over the rate of the variant, in the same round; above 1 the step pays. Medians and quartiles over
the rounds. Needs redis-benchmark, as benchmarks/proxy.py does.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import urllib.parse
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from proxy import ROWS, Proxy, fill_bulk, our_command, quartiles, redis_rate, turn  # beside this file

from pytest_resilience.backends.embedded.backend import EmbeddedBackend

# Link.on_event up to where data was received, without the short path; a variant says what happens to it then.
RECEIVED = """
def on_event(self, events):
    if events & (OUT | ERR | HUP) and self.mask & OUT:
        self.peer.flush()
    {turn} events & (IN | ERR | HUP) and self.mask & IN and not self.owner.closed:
        try:
            size = self.recv_into(BUFFER)
        except OSError as error:
            self._source_failed(error)
            return
        if not size:
            self._on_source_end(RESET if self.reset_seen else END)
            return
        self.bytes += size
{then}
link.Link.on_event = on_event
"""

# Run in the proxy's process before it starts. The names are internals: a variant that no longer applies fails at its start.
VARIANTS = {
    "a buffer of 32 KiB, not 256": "link.BUFFER = bytearray(32768); link.VIEW = memoryview(link.BUFFER)",
    "one event at a time, not 64": "event_loop.MAX_EVENTS = 1",
    "room for 1023 events, not 64": "event_loop.MAX_EVENTS = -1",
    "the garbage collector as it comes": "import gc; gc.freeze = lambda: None; gc.set_threshold = lambda *_: None",
    "sockets of socket.py, not of _socket": "import socket; proxy.so = socket",
    "no short path": RECEIVED.format(turn="if", then="        self._write(bytes(VIEW[:size]))"),
    "wait until it can be written to": RECEIVED.format(
        turn="if", then="        self._wait_for_destination(bytes(VIEW[:size]))"
    ),
    "read until nothing is left (edge-triggered)": """
EDGE = 1 << 31
watch = event_loop.EventLoop.watch
def watch_edges(self, fd, mask, before):
    edge = EDGE if mask and self.handlers[fd].__name__ == "on_event" else 0  # not of listeners, nor of the API
    watch(self, fd, mask | edge, before)
event_loop.EventLoop.watch = watch_edges
"""
    + RECEIVED.format(
        turn="while",
        then="""
        try:
            sent = self.send(VIEW[:size])
        except OSError as error:
            sent = self._send_failed(error, size)
        if sent != size:
            self._wait_for_destination(bytes(VIEW[sent:size]))
            return
""",
    ),
    "splice for what fills a buffer": """
import fcntl, os
plain = link.Link.on_event
pipes = {}
def on_event(self, events):
    if events != IN or self.stages or id(self) not in pipes:
        before = self.bytes
        plain(self, events)
        if self.bytes - before >= 65536 and id(self) not in pipes:
            pipes[id(self)] = os.pipe2(os.O_NONBLOCK)
            fcntl.fcntl(pipes[id(self)][0], 1031, 1 << 20)  # F_SETPIPE_SZ
        return
    out, into = pipes[id(self)]
    try:
        size = os.splice(self.fd, into, 1 << 20, flags=3)  # SPLICE_F_MOVE | SPLICE_F_NONBLOCK
    except OSError as error:
        self._source_failed(error)
        return
    if not size:
        self._on_source_end(END)
        return
    self.bytes += size
    try:
        while size:
            size -= os.splice(out, self.peer.fd, size, flags=3)
    except BlockingIOError:
        self._wait_for_destination(os.read(out, size))
link.Link.on_event = on_event
""",
    "counters off": """
plain = link.Link.on_event
def on_event(self, events):
    if events != IN or self.stages:
        plain(self, events)
        return
    try:
        size = self.recv_into(BUFFER)
        if size and self.send(VIEW[:size]) == size:
            return
    except OSError:
        pass
    self.owner.close()
link.Link.on_event = on_event
""",
}
PATCH = """
from pytest_resilience.proxy import event_loop, link, proxy
from pytest_resilience.proxy.link import BUFFER, END, ERR, HUP, IN, OUT, RESET, VIEW
"""


def command_of(variant: str) -> list[str]:
    """Our proxy's command, with a variant's code before its start."""
    command = our_command()
    place = command.index("-c") + 1
    path, _, start = command[place].partition("; from ")
    code = VARIANTS.get(variant)
    if code is not None:
        command[place] = f"{path}\n{PATCH}{code}\nfrom {start}"
    return command


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="interleaved rounds (9)")
    parser.add_argument("--only", default="", help="variants that contain this text")
    options = parser.parse_args()
    tool = os.environ.get("REDIS_BENCHMARK") or shutil.which("redis-benchmark")
    if tool is None:
        print("no redis-benchmark (Debian: redis-tools)")
        return 1
    ways = ["as it is", *(name for name in VARIANTS if options.only in name)]
    rates: dict[str, dict[str, list[float]]] = {row: {way: [] for way in ways} for row in ROWS}
    backend = EmbeddedBackend()
    backend.start()
    try:
        with ExitStack() as stack:
            redis = backend.servers["redis"].direct_address
            url = urllib.parse.urlparse(backend.servers["redis"].url(redis))
            fill_bulk((redis.host, redis.port), url)
            credentials = ["-a", url.password] if url.password else []
            doors = {}
            for way in ways:
                proxy = Proxy("ours", command_of(way))
                stack.callback(proxy.stop)
                doors[way] = proxy.door("redis", str(redis))
            for number in range(options.rounds):
                for row, (requests, arguments) in ROWS.items():
                    for way in turn(ways, number):
                        rates[row][way].append(redis_rate(tool, doors[way], requests, [*credentials, *arguments]))
    finally:
        backend.close()
    print(f"\n{'the proxy as it is, over':44}" + "".join(f"{row[:24]:>28}" for row in ROWS))
    for way in ways[1:]:
        shown = []
        for row in ROWS:
            pairs = zip(rates[row]["as it is"], rates[row][way], strict=True)
            middle, low, high = quartiles([ours / variant for ours, variant in pairs])
            shown.append(f"{middle:.2f} [{low:.2f} - {high:.2f}]")
        print(f"{way:44}" + "".join(f"{each:>28}" for each in shown))
    return 0


if __name__ == "__main__":
    sys.exit(main())
