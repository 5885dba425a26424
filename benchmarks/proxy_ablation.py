"""Measure the effect of each optimization of the embedded proxy, by an ablation study.

A row is a variant: the proxy without one optimization, or with one that it does not use. The figures are the rate of the proxy as it
is, divided by the rate of the variant in the same round, as medians and quartiles over the rounds. Above 1, the optimization helps.
Needs redis-benchmark, as benchmarks/proxy.py does.
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

from proxy import ROWS, Proxy, embedded_command, fill_bulk, quartiles, redis_rate, rotate

from pytest_resilience.backends.embedded.backend import EmbeddedBackend

# Link.on_event without its short path, up to the received data. A variant adds what happens to the data.
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

# Code that runs in the proxy's process before the proxy. It uses internal names: a variant that no longer fits fails at its start.
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
    edge = EDGE if mask and self.handlers[fd].__name__ == "on_event" else 0  # links only, not listeners or the API
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
    """Return the command of the embedded proxy with the code of a variant."""
    command = embedded_command()
    index = command.index("-c") + 1
    path, _, start = command[index].partition("; from ")
    code = VARIANTS.get(variant)
    if code is not None:
        command[index] = f"{path}\n{PATCH}{code}\nfrom {start}"
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
    variants = ["as it is", *(name for name in VARIANTS if options.only in name)]
    rates: dict[str, dict[str, list[float]]] = {row: {variant: [] for variant in variants} for row in ROWS}
    backend = EmbeddedBackend()
    backend.start()
    try:
        with ExitStack() as stack:
            redis = backend.servers["redis"].direct_address
            url = urllib.parse.urlparse(backend.servers["redis"].url(redis))
            fill_bulk((redis.host, redis.port), url)
            credentials = ["-a", url.password] if url.password else []
            addresses = {}
            for variant in variants:
                proxy = Proxy("ours", command_of(variant))
                stack.callback(proxy.stop)
                addresses[variant] = proxy.create_proxy("redis", str(redis))
            for number in range(options.rounds):
                for row, (requests, arguments) in ROWS.items():
                    for variant in rotate(variants, number):
                        rates[row][variant].append(
                            redis_rate(tool, addresses[variant], requests, [*credentials, *arguments])
                        )
    finally:
        backend.close()
    print(f"\n{'the proxy as it is, over':44}" + "".join(f"{row[:24]:>28}" for row in ROWS))
    for variant in variants[1:]:
        cells = []
        for row in ROWS:
            pairs = zip(rates[row]["as it is"], rates[row][variant], strict=True)
            middle, low, high = quartiles([whole / ablated for whole, ablated in pairs])
            cells.append(f"{middle:.2f} [{low:.2f} - {high:.2f}]")
        print(f"{variant:44}" + "".join(f"{each:>28}" for each in cells))
    return 0


if __name__ == "__main__":
    sys.exit(main())
