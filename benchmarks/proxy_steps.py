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

from pytest_resilience.backends.embedded import EmbeddedBackend

# Run in the proxy's process before it starts. The names are internals: a variant that no longer applies fails at its start.
VARIANTS = {
    "a buffer of 32 KiB, not 256": "link.BUFFER = bytearray(32768); link.VIEW = memoryview(link.BUFFER)",
    "one event at a time, not 64": "loop.BATCH = 1",
    "room for 1023 events, not 64": "loop.BATCH = -1",
    "the garbage collector as it comes": "import gc; gc.freeze = lambda: None; gc.set_threshold = lambda *_: None",
    "sockets of socket.py, not of _socket": "import socket; relay.so = socket",
    "no short path": (
        "def on_event(self, events):\n"
        "    if events & (OUT | ERR | HUP) and self.mask & OUT:\n"
        "        self.peer.flush()\n"
        "    if events & (IN | ERR | HUP) and self.mask & IN and not self.connection.closed:\n"
        "        try:\n"
        "            size = self.recv_into(BUFFER)\n"
        "        except OSError as error:\n"
        "            self._source_failed(error)\n"
        "            return\n"
        "        if not size:\n"
        "            self._take_signal(RESET if self.reset_seen else END)\n"
        "            return\n"
        "        self.bytes += size\n"
        "        if self.stages:\n"
        "            self.stages[0].enter(self.loop.now(), bytes(VIEW[:size]))\n"
        "            self.pump(self.loop.now())\n"
        "        else:\n"
        "            self._pass_on(bytes(VIEW[:size]))\n"
        "link.Link.on_event = on_event"
    ),
    "wait until it can be written to": (
        "def on_event(self, events):\n"
        "    if events & (OUT | ERR | HUP) and self.mask & OUT:\n"
        "        self.peer.flush()\n"
        "    if events & (IN | ERR | HUP) and self.mask & IN and not self.connection.closed:\n"
        "        try:\n"
        "            size = self.recv_into(BUFFER)\n"
        "        except OSError as error:\n"
        "            self._source_failed(error)\n"
        "            return\n"
        "        if not size:\n"
        "            self._take_signal(RESET if self.reset_seen else END)\n"
        "            return\n"
        "        self.bytes += size\n"
        "        self._wait_for_destination(bytes(VIEW[:size]))\n"
        "link.Link.on_event = on_event"
    ),
    "read until nothing is left (edge-triggered)": (
        "EDGE = 1 << 31\n"
        "watch = loop.Loop.watch\n"
        "def watch_edges(self, fd, mask, before):\n"
        "    edge = EDGE if mask and self.handlers[fd].__name__ == 'on_event' else 0  # not of listeners, nor of the API\n"
        "    watch(self, fd, mask | edge, before)\n"
        "loop.Loop.watch = watch_edges\n"
        "def on_event(self, events):\n"
        "    if events & (OUT | ERR | HUP) and self.mask & OUT:\n"
        "        self.peer.flush()\n"
        "    while events & (IN | ERR | HUP) and self.mask & IN and not self.connection.closed:\n"
        "        try:\n"
        "            size = self.recv_into(BUFFER)\n"
        "        except OSError as error:\n"
        "            self._source_failed(error)\n"
        "            return\n"
        "        if not size:\n"
        "            self._take_signal(RESET if self.reset_seen else END)\n"
        "            return\n"
        "        self.bytes += size\n"
        "        try:\n"
        "            sent = self.send(VIEW[:size])\n"
        "        except OSError as error:\n"
        "            sent = self._send_failed(error, size)\n"
        "        if sent != size:\n"
        "            self._wait_for_destination(bytes(VIEW[sent:size]))\n"
        "            return\n"
        "link.Link.on_event = on_event"
    ),
    "splice for what fills a buffer": (
        "import fcntl, os\n"
        "plain = link.Link.on_event\n"
        "pipes = {}\n"
        "def on_event(self, events):\n"
        "    if events != IN or self.stages or id(self) not in pipes:\n"
        "        before = self.bytes\n"
        "        plain(self, events)\n"
        "        if self.bytes - before >= 65536 and id(self) not in pipes:\n"
        "            pipes[id(self)] = os.pipe2(os.O_NONBLOCK)\n"
        "            fcntl.fcntl(pipes[id(self)][0], 1031, 1 << 20)\n"
        "        return\n"
        "    into, out = pipes[id(self)][1], pipes[id(self)][0]\n"
        "    try:\n"
        "        size = os.splice(self.fd, into, 1 << 20, flags=3)\n"
        "    except OSError as error:\n"
        "        return self._source_failed(error)\n"
        "    if not size:\n"
        "        return self._take_signal(END)\n"
        "    self.bytes += size\n"
        "    left = size\n"
        "    try:\n"
        "        while left:\n"
        "            left -= os.splice(out, self.peer.fd, left, flags=3)\n"
        "    except BlockingIOError:\n"
        "        self._wait_for_destination(os.read(out, left))\n"
        "link.Link.on_event = on_event"
    ),
    "counters off": (
        "def on_event(self, events):\n"
        "    if events == IN and not self.stages:\n"
        "        try:\n"
        "            size = self.recv_into(BUFFER)\n"
        "            if size and self.send(VIEW[:size]) == size:\n"
        "                return\n"
        "        except OSError:\n"
        "            pass\n"
        "        return self.connection.close()\n"
        "    return plain(self, events)\n"
        "plain = link.Link.on_event\n"
        "link.Link.on_event = on_event"
    ),
}
PATCH = (
    "from pytest_resilience.proxy import link, loop, relay\n"
    "from pytest_resilience.proxy.link import *\n"
    "from pytest_resilience.proxy.link import BUFFER, VIEW, IN, OUT, ERR, HUP, END, RESET\n"
)


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
            redis = backend.servers["redis"].direct
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
