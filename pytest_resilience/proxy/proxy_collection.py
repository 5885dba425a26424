"""The set of proxies: create, update, populate, reset. The first three are all or nothing: what fails changes nothing.

So new ports are bound before anything old is let go. The one thing that stands in the way is a port that the same step frees;
`_PortTransaction` has its holder step aside, and back again if the step fails. Reset goes as far as it can.
"""

from __future__ import annotations

from _socket import AF_UNIX
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ..wire.api_error import ApiError, bad_body
from ..wire.toxiproxy import ProxyBody, ToxicBody, merge_attributes
from .address import Address, AddressError, is_loopback, lookup_host, resolve_listen_address
from .installed_toxic import InstalledToxic, parse_stream_and_type, parse_toxic
from .listener import Listener
from .proxy import Proxy
from .runtime import ProxyRuntime

if TYPE_CHECKING:
    from .resolver import LookupResult
    from .tls_config import TlsConfig


class _PortTransaction:
    """Binds listeners for one step, next to those that the step lets go.

    Args:
        leaving: listeners that the step will not need where they are.
    """

    def __init__(self, leaving: Iterable[Listener] = ()) -> None:
        self._leaving = list(leaving)
        self._bound: list[Listener] = []
        self._yielded: list[tuple[Listener, bool]] = []

    def bind(self, address: Address) -> Listener:
        """A bound listener that does not listen yet; one of those that leave, if it is at that address."""
        for listener in self._leaving:
            if (address.port or address.family == AF_UNIX) and listener.address == address:
                self._leaving.remove(listener)
                return listener
        for listener in self._leaving:
            if (
                address.port
                and listener.address.port == address.port
                and listener not in [each for each, _ in self._yielded]
            ):
                self._yielded.append((listener, listener.listening))
                listener.yield_port()
        listener = Listener(address)
        self._bound.append(listener)
        return listener

    def undo(self) -> None:
        """Let go of what was bound, and put those back that stepped aside."""
        for listener in self._bound:
            listener.close()
        for listener, listening in self._yielded:
            listener.reclaim_port(listening)


class ProxyCollection:
    """All proxies of this process, by name.

    Args:
        loopback_only: refuse addresses that other machines could reach.

    Attributes:
        find: looks up the name of a host to listen on. It may raise `NameNotResolved` through all methods: nothing has changed then
            that the same call does not do again.
    """

    def __init__(self, runtime: ProxyRuntime, *, loopback_only: bool = False) -> None:
        self._runtime = runtime
        self._loopback_only = loopback_only
        self.lookup_host: Callable[[str], list[tuple[int, str]]] = lookup_host
        self.by_name: dict[str, Proxy] = {}

    def get(self, name: str) -> Proxy:
        """
        Raises:
            ApiError: 404.
        """
        proxy = self.by_name.get(name)
        if proxy is None:
            raise ApiError(404, "proxy not found")
        return proxy

    def create(self, body: ProxyBody) -> Proxy:
        """A new proxy with its toxics, listening unless `enabled` is false.

        Raises:
            ApiError: 409 for a name taken, 400 for a toxic or TLS, 500 if the address can't be bound.
        """
        name = body.name or ""
        if name in self.by_name:
            raise ApiError(409, "proxy already exists")
        proxy = self._build(body)
        if body.enabled is not False:
            try:
                self._enable(proxy)
            except AddressError as error:
                raise ApiError(500, str(error)) from None
        proxy.set_admission(body.admission)
        self.by_name[name] = proxy
        return proxy

    def _build(self, body: ProxyBody) -> Proxy:
        if self._loopback_only and body.enabled is False:
            try:
                self._resolve(body.listen or "")
            except AddressError:
                pass  # it is looked at again when the proxy is enabled
        proxy = Proxy(self._runtime, body.name or "", body.listen or "", body.upstream or "")
        for toxic in _parse_toxics(body):
            proxy.add_toxic(toxic)
        proxy.set_tls(_create_tls(body))
        return proxy

    def update(self, proxy: Proxy, body: ProxyBody) -> None:
        """Change a proxy; what the body leaves out stays. A new address or upstream closes its connections.

        Raises:
            ApiError: 500 if the new address can't be read or bound, 400 for a toxic or TLS.
        """
        toxics = None if body.toxics is None else _parse_toxics(body)
        tls = _create_tls(body)
        enabled = proxy.enabled if body.enabled is None else body.enabled
        try:
            moves = body.listen is not None and self._differs(proxy, body.listen)
            wanted = (
                self._resolve(body.listen if moves and body.listen is not None else proxy.listen) if enabled else None
            )
        except AddressError as error:
            raise ApiError(500, str(error)) from None
        fresh: Listener | None = None
        if wanted is not None and (moves or proxy.listener is None):
            binder = _PortTransaction([proxy.listener] if proxy.listener else [])
            try:
                fresh = binder.bind(wanted)
                fresh.listen()
            except AddressError as error:
                binder.undo()
                raise ApiError(500, str(error)) from None
        elif enabled and not proxy.enabled and proxy.listener is not None:
            try:
                proxy.listener.listen()
            except AddressError as error:
                raise ApiError(500, str(error)) from None
        # Nothing can fail from here on.
        rerouted = body.upstream is not None and body.upstream != proxy.upstream.text
        if rerouted:
            proxy.upstream.change(body.upstream or "")
        if moves:
            proxy.close()
            proxy.listen = body.listen or ""
        elif rerouted:
            proxy.close_connections()
        if enabled:
            proxy.start(fresh)
        else:
            proxy.stop()
        proxy.set_admission(body.admission)
        if body.tls is not None:
            proxy.set_tls(tls)
        if toxics is not None:
            self._replace_toxics(proxy, toxics)

    def _replace_toxics(self, proxy: Proxy, toxics: list[InstalledToxic]) -> None:
        if [toxic.to_json() for toxic in proxy.toxics] == [toxic.to_json() for toxic in toxics]:
            return
        for toxic in list(proxy.toxics):
            proxy.remove_toxic(toxic)
        for toxic in toxics:
            proxy.add_toxic(toxic)

    def delete(self, proxy: Proxy) -> None:
        """Stop a proxy and forget it."""
        proxy.close()
        del self.by_name[proxy.name]

    def populate(self, bodies: list[ProxyBody]) -> list[Proxy]:
        """Create what is missing, replace what differs in address or upstream, and leave the rest alone.

        An entry that lists toxics gives its proxy exactly those; one that lists none leaves an equal proxy's toxics alone. The
        same goes for TLS.

        Raises:
            ApiError: 400 for a toxic or TLS, 500 if an address can't be bound; nothing has changed then.
        """
        result: list[Proxy] = []
        fresh: dict[str, tuple[Proxy, ProxyBody]] = {}
        toxics = [_parse_toxics(body) for body in bodies]
        tls = [_create_tls(body) for body in bodies]
        replaced: dict[str, Proxy] = {}
        try:
            for body in bodies:
                name = body.name or ""
                planned = fresh.get(name)
                old = planned[0] if planned else self.by_name.get(name)
                if old is not None and old.upstream.text == body.upstream and not self._differs(old, body.listen or ""):
                    result.append(old)
                    continue
                if planned is None and old is not None:
                    replaced[name] = old
                elif planned is not None and planned[1].enabled is not False:
                    self._show_once_bound(planned[0])
                proxy = self._build(body)
                if body.enabled is not False:
                    proxy.listen = str(self._resolve_to_listen(proxy.listen))
                fresh[name] = (proxy, body)
                result.append(proxy)  # with the one that a later entry of the same name replaced: disabled, as in Go
        except AddressError as error:
            raise ApiError(500, str(error)) from None
        binder = _PortTransaction([old.listener for old in replaced.values() if old.listener is not None])
        bound: list[tuple[Proxy, Listener]] = []
        try:
            for proxy, body in fresh.values():
                if body.enabled is not False:
                    bound.append((proxy, binder.bind(resolve_listen_address(proxy.listen))))
            for _, listener in bound:
                if not listener.listening:
                    listener.listen()
        except AddressError as error:
            binder.undo()
            raise ApiError(500, str(error)) from None
        kept = [listener for _, listener in bound]
        for name, old in replaced.items():
            old.close(keep_port=old.listener in kept)
            del self.by_name[name]
        for name, (proxy, _) in fresh.items():
            self.by_name[name] = proxy
        for proxy, listener in bound:
            proxy.start(listener)
        for proxy, body in fresh.values():
            proxy.set_admission(body.admission)
        for body, wanted, secured in zip(bodies, toxics, tls, strict=True):
            if wanted and body.name not in fresh:
                self._replace_toxics(self.by_name[body.name or ""], wanted)
            if body.tls is not None and body.name not in fresh:
                self.by_name[body.name or ""].set_tls(secured)
        return result

    def reset(self) -> None:
        """Enable every proxy and take all toxics away. A proxy that can't be enabled keeps no other from being reset.

        Raises:
            ApiError: 500 that names the proxies that can't be enabled; their toxics are gone, too.
        """
        failed: list[str] = []
        for proxy in self.by_name.values():
            for toxic in list(proxy.toxics):
                proxy.remove_toxic(toxic)
            if proxy.admission is not None:
                proxy.admission.clear()
            if not proxy.enabled:
                try:
                    self._enable(proxy)
                except AddressError as error:
                    failed.append(f"{proxy.name}: {error}")
                except ApiError as error:
                    failed.append(f"{proxy.name}: {error.message}")
        if failed:
            raise ApiError(500, "; ".join(failed))

    def _enable(self, proxy: Proxy) -> None:
        """Start a proxy that is disabled.

        Raises:
            AddressError: its address can't be bound; it stays disabled.
            ApiError: 400, as for `_resolve`.
        """
        if proxy.listener is not None:
            proxy.start()
            return
        listener = Listener(self._resolve_to_listen(proxy.listen))
        try:
            proxy.start(listener)
        except AddressError:
            listener.close()
            raise

    def remove_unix_sockets(self) -> None:
        """Unlink the paths that proxies listen on: the only thing of ours that would outlive the process."""
        for proxy in self.by_name.values():
            if proxy.listener is not None and proxy.listen.startswith("unix:"):
                proxy.listener.close()

    def look_up_later(self, host: str, then: Callable[[LookupResult], None]) -> None:
        """Look a name up without keeping the loop waiting, and call `then` with the answer."""
        self._runtime.resolver.resolve(host, then)

    # --- addresses ---------------------------------------------------------------------------------------------------

    def _resolve(self, listen: str) -> Address:
        """Return where a proxy listens.

        Raises:
            AddressError: the address can't be read or resolved.
            ApiError: 400, other machines could reach it, which this process refuses.
        """
        address = resolve_listen_address(listen, self.lookup_host)
        if self._loopback_only and address.family != AF_UNIX and not is_loopback(address.host):
            raise bad_body(
                f"listen: {listen!r} is {address}, which other machines can reach, and this proxy was started with "
                "-loopback-only: give an address of loopback, such as 127.0.0.1:0"
            )
        return address

    def _show_once_bound(self, proxy: Proxy) -> None:
        """Have a proxy that will never listen show the address that it would have got."""
        address = resolve_listen_address(proxy.listen)
        if not address.port and address.family != AF_UNIX:
            listener = Listener(address)
            proxy.listen = str(listener.address)
            listener.close()

    def _resolve_to_listen(self, listen: str) -> Address:
        try:
            return self._resolve(listen)
        except AddressError as error:
            raise AddressError(f"listen tcp: {error}") from None

    def _differs(self, proxy: Proxy, listen: str) -> bool:
        """True if `listen` is another address than the proxy's. Port 0 always is."""
        wanted = self._resolve(listen)
        return str(wanted) != proxy.listen or (wanted.port == 0 and wanted.family != AF_UNIX)

    # --- toxics ------------------------------------------------------------------------------------------------------

    def get_toxic(self, proxy: Proxy, name: str) -> InstalledToxic:
        """
        Raises:
            ApiError: 404.
        """
        toxic = proxy.find_toxic(name)
        if toxic is None:
            raise ApiError(404, "toxic not found")
        return toxic

    def add_toxic(self, proxy: Proxy, body: ToxicBody) -> InstalledToxic:
        """A new toxic at the end of its stream's chain.

        Raises:
            ApiError: 400 for the stream or the type, 409 for a name taken, 400 for the attributes; in this order.
        """
        stream, kind = parse_stream_and_type(body)
        if proxy.find_toxic(body.name or f"{kind}_{stream}") is not None:
            raise ApiError(409, "toxic already exists")
        toxic = parse_toxic(body)
        proxy.add_toxic(toxic)
        return toxic

    def update_toxic(self, proxy: Proxy, toxic: InstalledToxic, body: ToxicBody) -> None:
        """New attributes (those left out stay) and toxicity. Name, type and stream may be repeated and not changed.

        Raises:
            ApiError: 400; nothing has changed then.
        """
        for field, sent, own in (("name", body.name, toxic.name), ("type", body.kind, toxic.kind)):
            if sent is not None and sent != own:
                raise ApiError(400, f"{field} of a toxic cannot be changed: it is {own}")
        if body.stream is not None and body.stream.lower() != toxic.stream.lower():
            raise ApiError(400, f"stream of a toxic cannot be changed: it is {toxic.stream}")
        attributes = merge_attributes(toxic.kind, body.attributes, toxic.attributes)
        toxic.update(toxicity=toxic.toxicity if body.toxicity is None else body.toxicity, attributes=attributes)
        if body.trigger is not None:
            toxic.trigger = body.trigger
        proxy.update_toxic(toxic, restart=body.trigger is not None)


def _parse_toxics(body: ProxyBody) -> list[InstalledToxic]:
    toxics: dict[str, InstalledToxic] = {}
    for each in body.toxics or ():
        toxic = parse_toxic(each)
        if toxic.name in toxics:
            raise ApiError(409, "toxic already exists")
        toxics[toxic.name] = toxic
    return list(toxics.values())


def _create_tls(body: ProxyBody) -> TlsConfig | None:
    if body.tls is None or not body.tls.as_json:
        return None
    from .tls_config import TlsConfig  # ssl takes as long to import as the proxy to start

    return TlsConfig(body.tls)
