"""The routes of Toxiproxy's HTTP API: paths, bodies, status codes.

A route that exists answers with `X-Toxiproxy-Request-Id`. A path that is not clean is a 301 to the clean one, an unknown path a
404, a path with a wrong method a 405, and a browser a 403. Additions: GET /proxies/{p}/counters and /connections.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..wire import toxiproxy as wire
from ..wire.api_error import ApiError
from ..wire.go_json import decode
from .address import AddressError, lookup_host
from .api_policy import refuse_paths
from .api_response import NO_CONTENT, Headers, Response, error_response, json_response, text_response
from .proxy_collection import ProxyCollection
from .resolver import NameNotResolved

if TYPE_CHECKING:
    from .proxy import Proxy
    from .resolver import LookupResult


class ApiRoutes:
    """The routes, over a set of proxies.

    Args:
        metrics: returns the text of GET /metrics; None for no such route.
        allow_paths: accept unix sockets and TLS files in requests.
        tls_files: a directory whose files are accepted as TLS files in any case; "" for none.
    """

    def __init__(
        self,
        proxies: ProxyCollection,
        metrics: Callable[[], str] | None = None,
        *,
        allow_paths: bool = False,
        tls_files: str = "",
    ) -> None:
        self._proxies = proxies
        self._metrics = metrics
        self._allow_paths = allow_paths
        self._tls_files = tls_files
        self._names: dict[str, LookupResult] = {}
        proxies.lookup_host = self._lookup_host

    def answer(
        self, method: str, target: str, headers: Headers, body: bytes, names: dict[str, LookupResult]
    ) -> Response:
        """Return the response to one request. The names of its headers are in lower case.

        Raises:
            NameUnknown: the request has to be answered again when `names` has this host; nothing may wait here for a resolver.
        """
        self._names = names
        if any(name == b"expect" and value.lower() != b"100-continue" for name, value in headers):
            return Response(417, b"", "", False, (("Connection", "close"),))
        path, question, query = target.partition("?")
        if not path.startswith("/") and "://" in path:
            path = "/" + path.split("://", 1)[1].partition("/")[2]
        clean = clean_path(path)
        if clean != path:
            return Response(301, b"", "", False, (("Location", clean + question + query),))
        route = self._route(method, path)
        if route is None:
            return text_response(404, "404 page not found\n", matched=False)
        handler, names_in_path = route
        if handler is None:
            return Response(405, b"", "", False)
        if any(name == b"user-agent" and value.startswith(b"Mozilla/") for name, value in headers):
            return text_response(403, "User agent not allowed\n", matched=True)
        try:
            return handler(body, *names_in_path)
        except ApiError as error:
            return error_response(error)

    def _lookup_host(self, host: str) -> list[tuple[int, str]]:
        """Look up a host to listen on.

        Raises:
            AddressError: there is no such host.
            NameUnknown: it has to be looked up first.
        """
        if host == "localhost":  # usually from a file, so that it does not block
            return lookup_host(host)
        if host not in self._names:
            raise NameNotResolved(host)
        found = self._names[host]
        if isinstance(found, AddressError):
            raise found
        return found

    def _route(self, method: str, path: str) -> tuple[Callable[..., Response] | None, tuple[str, ...]] | None:
        """Return the handler and the names in the path. The handler is None for a wrong method, the result for an unknown path."""
        match [unquote(part) for part in path.split("/")[1:]]:
            case ["metrics"] if self._metrics is not None:
                return self._get_metrics, ()
            case ["version"]:
                return {"GET": self._get_version}.get(method), ()
            case ["reset"]:
                return {"POST": self._reset}.get(method), ()
            case ["populate"]:
                return {"POST": self._populate}.get(method), ()
            case ["proxies"]:
                return {"GET": self._list, "POST": self._create}.get(method), ()
            case ["proxies", name] if name:
                methods: dict[str, Callable[..., Response]] = {
                    "GET": self._show,
                    "POST": self._update,
                    "PATCH": self._update,
                    "DELETE": self._delete,
                }
                return methods.get(method), (name,)
            case ["proxies", name, "toxics"] if name:
                return {"GET": self._list_toxics, "POST": self._add_toxic}.get(method), (name,)
            case ["proxies", name, "toxics", toxic] if name and toxic:
                methods = {
                    "GET": self._show_toxic,
                    "POST": self._update_toxic,
                    "PATCH": self._update_toxic,
                    "DELETE": self._remove_toxic,
                }
                return methods.get(method), (name, toxic)
            case ["proxies", name, "counters"] if name:
                return {"GET": self._counters}.get(method), (name,)
            case ["proxies", name, "connections"] if name:
                return {"GET": self._connections}.get(method), (name,)
        return None

    def _get_metrics(self, body: bytes) -> Response:
        text = self._metrics() if self._metrics is not None else ""
        return Response(200, text.encode(), "text/plain; version=0.0.4; charset=utf-8")

    def _get_version(self, body: bytes) -> Response:
        return Response(200, wire.version_body(), "application/json;charset=utf-8")

    def _reset(self, body: bytes) -> Response:
        self._proxies.reset()
        return NO_CONTENT

    def _populate(self, body: bytes) -> Response:
        try:
            bodies = wire.read_proxies(body)
            for each in bodies:
                self._check(each, self._proxies.by_name.get(each.name or ""))
            proxies = self._proxies.populate(bodies)
        except ApiError as error:
            return Response(error.status, wire.populate_error_body(error.status, error.message))
        return json_response({"proxies": [proxy.to_json() for proxy in proxies] or None}, 201)

    def _list(self, body: bytes) -> Response:
        by_name = self._proxies.by_name
        return json_response({name: by_name[name].to_json() for name in sorted(by_name)})

    def _create(self, body: bytes) -> Response:
        proxy = wire.read_new_proxy(body)
        self._check(proxy, None)
        return json_response(self._proxies.create(proxy).to_json(), 201)

    def _show(self, body: bytes, name: str) -> Response:
        return json_response(self._proxies.get(name).to_json())

    def _update(self, body: bytes, name: str) -> Response:
        proxy = self._proxies.get(name)
        changes = wire.read_proxy(decode(body))
        self._check(changes, proxy)
        self._proxies.update(proxy, changes)
        return json_response(proxy.to_json())

    def _check(self, body: wire.ProxyBody, existing: Proxy | None) -> None:
        if not self._allow_paths:
            refuse_paths(body, existing, self._tls_files)

    def _delete(self, body: bytes, name: str) -> Response:
        self._proxies.delete(self._proxies.get(name))
        return NO_CONTENT

    def _list_toxics(self, body: bytes, name: str) -> Response:
        return json_response([rule.to_json() for rule in self._proxies.get(name).toxics])

    def _add_toxic(self, body: bytes, name: str) -> Response:
        proxy = self._proxies.get(name)
        return json_response(self._proxies.add_toxic(proxy, wire.read_toxic(decode(body))).to_json())

    def _show_toxic(self, body: bytes, name: str, toxic: str) -> Response:
        return json_response(self._proxies.get_toxic(self._proxies.get(name), toxic).to_json())

    def _update_toxic(self, body: bytes, name: str, toxic: str) -> Response:
        proxy = self._proxies.get(name)
        rule = self._proxies.get_toxic(proxy, toxic)
        self._proxies.update_toxic(proxy, rule, wire.read_toxic(decode(body), update=True))
        return json_response(rule.to_json())

    def _remove_toxic(self, body: bytes, name: str, toxic: str) -> Response:
        proxy = self._proxies.get(name)
        proxy.remove_toxic(self._proxies.get_toxic(proxy, toxic))
        return NO_CONTENT

    def _counters(self, body: bytes, name: str) -> Response:
        return json_response(self._proxies.get(name).counters_json())

    def _connections(self, body: bytes, name: str) -> Response:
        proxy = self._proxies.get(name)
        return json_response([each.to_json() for each in proxy.connections.values()])


def unquote(text: str) -> str:
    """Return `text` without its percent-encoding. The import of urllib's function would take as long as the start of the proxy.

    Bytes that are not UTF-8 become lone surrogates, which no name contains. As in Go, they address nothing.
    """
    if "%" not in text:
        return text
    first, *parts = text.encode("utf-8", "surrogateescape").split(b"%")
    data = bytearray(first)
    for part in parts:
        data.append(int(part[:2], 16))
        data += part[2:]
    return data.decode("utf-8", "surrogateescape")


def clean_path(path: str) -> str:
    """Return a path without empty, `.` and `..` segments, encoded or not. A slash at the end stays."""
    if "//" not in path and "/." not in path and "/%2" not in path and path.startswith("/"):
        return path
    kept: list[str] = []
    for part in path.split("/"):
        plain = part.replace("%2e", ".").replace("%2E", ".")
        if plain == "..":
            kept = kept[:-1]
        elif plain not in ("", "."):
            kept.append(part)
    end = "/" if kept and path.endswith("/") else ""
    return "/" + "/".join(kept) + end
