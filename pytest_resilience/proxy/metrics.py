"""The text of GET /metrics in Prometheus' format. It counts connections while they are open."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable

from ..wire.toxiproxy import VERSION
from .proxy_collection import ProxyCollection


def _label(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


class Metrics:
    """The metrics of all proxies.

    Args:
        proxy: bytes per proxy and direction, connections and toxics.
        runtime: figures of this process.
    """

    def __init__(self, proxies: ProxyCollection, *, proxy: bool, runtime: bool) -> None:
        self._proxies = proxies
        self._proxy = proxy
        self._runtime = runtime
        self.enabled = proxy or runtime

    def text(self) -> str:
        lines: list[str] = []
        if self._proxy:
            lines += self._bytes("received", sent=False)
            lines += self._bytes("sent", sent=True)
            lines += self._connections()
        if self._runtime:
            lines += self._process()
        return "\n".join(lines) + "\n"

    def _bytes(self, word: str, *, sent: bool) -> Iterable[str]:
        name = f"toxiproxy_proxy_{word}_bytes_total"
        yield f"# HELP {name} The total bytes {word}, per proxy and direction."
        yield f"# TYPE {name} counter"
        for proxy in self._proxies.by_name.values():
            for upward, direction in ((False, "downstream"), (True, "upstream")):
                labels = (
                    f'direction="{direction}",listener="{_label(proxy.listen)}",'
                    f'proxy="{_label(proxy.name)}",upstream="{_label(proxy.upstream.text)}"'
                )
                yield f"{name}{{{labels}}} {proxy.total(upward=upward, sent=sent)}"

    def _connections(self) -> Iterable[str]:
        proxies = self._proxies.by_name.values()
        for name, kind, text, values in (
            ("connections", "gauge", "Connections open now.", [len(each.connections) for each in proxies]),
            ("accepted_total", "counter", "Connections accepted.", [each.accepted.count for each in proxies]),
            ("toxics", "gauge", "Toxics at work.", [len(each.toxics) for each in proxies]),
        ):
            yield f"# HELP toxiproxy_proxy_{name} {text}"
            yield f"# TYPE toxiproxy_proxy_{name} {kind}"
            for proxy, value in zip(proxies, values, strict=True):
                yield f'toxiproxy_proxy_{name}{{proxy="{_label(proxy.name)}"}} {value}'

    def _process(self) -> Iterable[str]:
        import resource

        usage = resource.getrusage(resource.RUSAGE_SELF)
        peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        for name, kind, text, value in (
            ("process_cpu_seconds_total", "counter", "User and system CPU time.", usage.ru_utime + usage.ru_stime),
            ("process_max_resident_memory_bytes", "gauge", "Highest resident memory so far.", peak),
            ("python_gc_objects", "gauge", "Objects that the collector tracks.", sum(gc.get_count())),
        ):
            yield f"# HELP {name} {text}"
            yield f"# TYPE {name} {kind}"
            yield f"{name} {value}"
        yield "# HELP toxiproxy_build_info What this is."
        yield "# TYPE toxiproxy_build_info gauge"
        yield f'toxiproxy_build_info{{version="{VERSION}",python="{sys.version.split()[0]}"}} 1'
