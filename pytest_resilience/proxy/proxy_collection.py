"""All proxies of the process: create, update, populate, reset.

The first three change everything or nothing. Each has three phases: plan (parse and resolve, which may fail), bind (which may fail
and is rolled back), and commit (which cannot fail). New ports are bound before old ones are released. The only port that is not
free then is one that the same request releases: `_PortTransaction` has its holder yield it, and reclaim it if the request fails.

A reset goes as far as it can.
"""

from __future__ import annotations

from _socket import AF_UNIX
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from ..wire.api_error import ApiError, bad_body
from ..wire.toxiproxy import ProxyBody, ToxicBody, merge_attributes
from .address import AddressError, SocketAddress, is_loopback, lookup_host, resolve_listen_address
from .installed_toxic import InstalledToxic, parse_toxic
from .listener import Listener
from .proxy import Proxy
from .runtime import ProxyRuntime
from .statements import InstalledRule, Rules, parse_rule
from .statements.installed_rule import KIND as STATEMENT

if TYPE_CHECKING:
    from .resolver import LookupResult
    from .tls_config import TlsConfig


class _PortTransaction:
    """The ports that one request binds, next to those that it releases.

    Args:
        leaving: listeners that the request does not need where they are.
    """

    def __init__(self, leaving: Iterable[Listener] = ()) -> None:
        self._leaving = list(leaving)
        self._bound: list[Listener] = []
        self._yielded: list[tuple[Listener, bool]] = []

    def bind(self, address: SocketAddress) -> Listener:
        """Return a bound listener that does not listen yet, or the leaving one that has this address."""
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

    def rollback(self) -> None:
        """Release what was bound, and let the yielding listeners reclaim their ports."""
        for listener in self._bound:
            listener.close()
        for listener, listening in self._yielded:
            listener.reclaim_port(listening)


class _Update(NamedTuple):
    """The plan of an update.

    Attributes:
        toxics: None leaves the proxy's own.
        rules: for the statements of new connections; None for no protocol.
        moves: the proxy gets another listener.
        address: where it will listen; None if it will be disabled.
    """

    toxics: list[InstalledToxic] | None
    tls: TlsConfig | None
    rules: Rules | None
    enabled: bool
    moves: bool
    address: SocketAddress | None


class _Creation(NamedTuple):
    """A proxy that populate creates, and its entry in the request."""

    proxy: Proxy
    body: ProxyBody

    @property
    def enabled(self) -> bool:
        return self.body.enabled is not False


class _Population(NamedTuple):
    """The plan of a populate.

    Attributes:
        entries: each with its toxics, TLS options and rules.
        created: by name.
        replaced: proxies that a created one takes the name of.
        result: one proxy for each entry.
    """

    entries: list[tuple[ProxyBody, list[InstalledToxic], TlsConfig | None, Rules | None]]
    created: dict[str, _Creation]
    replaced: dict[str, Proxy]
    result: list[Proxy]


class ProxyCollection:
    """All proxies of this process, by name.

    Args:
        loopback_only: refuse addresses that other machines could reach.

    Attributes:
        lookup_host: looks up the name of a host to listen on. It may raise `NameNotResolved` through all methods. Nothing has
            changed then that a second call of the method does not repeat.
    """

    def __init__(self, runtime: ProxyRuntime, *, loopback_only: bool = False) -> None:
        self._runtime = runtime
        self._loopback_only = loopback_only
        self.lookup_host: Callable[[str], list[tuple[int, str]]] = lookup_host
        self.by_name: dict[str, Proxy] = {}

    def get(self, name: str) -> Proxy:
        """Return the proxy of that name.

        Raises:
            ApiError: 404.
        """
        proxy = self.by_name.get(name)
        if proxy is None:
            raise ApiError(404, "proxy not found")
        return proxy

    # --- create ------------------------------------------------------------------------------------------------------

    def create(self, body: ProxyBody) -> Proxy:
        """Create a proxy with its toxics. It listens unless `enabled` is false.

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
                pass  # it is resolved again when the proxy is enabled
        proxy = Proxy(self._runtime, body.name or "", body.listen or "", body.upstream or "")
        proxy.set_rules(_planned_rules(body, None))
        for toxic in _parse_toxics(body, proxy.rules):
            proxy.add_toxic(toxic)
        proxy.set_tls(_create_tls(body))
        return proxy

    # --- update ------------------------------------------------------------------------------------------------------

    def update(self, proxy: Proxy, body: ProxyBody) -> None:
        """Change a proxy. What the body leaves out stays. A new address or upstream closes its connections.

        Raises:
            ApiError: 500 if the new address can't be read or bound, 400 for a toxic or TLS.
        """
        try:
            plan = self._plan_update(proxy, body)
            listener = self._bind_update(proxy, plan)
        except AddressError as error:
            raise ApiError(500, str(error)) from None
        self._commit_update(proxy, body, plan, listener)

    def _plan_update(self, proxy: Proxy, body: ProxyBody) -> _Update:
        rules = _planned_rules(body, proxy)
        toxics = None if body.toxics is None else _parse_toxics(body, rules)
        tls = _create_tls(body)
        enabled = proxy.enabled if body.enabled is None else body.enabled
        moves = body.listen is not None and self._differs(proxy, body.listen)
        listen = body.listen if moves and body.listen is not None else proxy.listen
        return _Update(toxics, tls, rules, enabled, moves, self._resolve(listen) if enabled else None)

    def _bind_update(self, proxy: Proxy, plan: _Update) -> Listener | None:
        """Bind and listen where the proxy has to. Return the listener if it is a new one."""
        if plan.address is not None and (plan.moves or proxy.listener is None):
            ports = _PortTransaction([proxy.listener] if proxy.listener else [])
            try:
                listener = ports.bind(plan.address)
                listener.listen()
            except AddressError:
                ports.rollback()
                raise
            return listener
        if plan.enabled and not proxy.enabled and proxy.listener is not None:
            proxy.listener.listen()
        return None

    def _commit_update(self, proxy: Proxy, body: ProxyBody, plan: _Update, listener: Listener | None) -> None:
        rerouted = body.upstream is not None and body.upstream != proxy.upstream.text
        if rerouted:
            proxy.upstream.change(body.upstream or "")
        if plan.moves:
            proxy.close()
            proxy.listen = body.listen or ""
        elif rerouted:
            proxy.close_connections()
        if plan.enabled:
            proxy.start(listener)
        else:
            proxy.stop()
        proxy.set_admission(body.admission)
        if body.tls is not None:
            proxy.set_tls(plan.tls)
        proxy.set_rules(plan.rules)
        if plan.toxics is not None:
            _replace_toxics(proxy, plan.toxics)

    def delete(self, proxy: Proxy) -> None:
        """Stop a proxy and forget it."""
        proxy.close()
        del self.by_name[proxy.name]

    # --- populate ----------------------------------------------------------------------------------------------------

    def populate(self, bodies: list[ProxyBody]) -> list[Proxy]:
        """Create what is missing, replace what differs in address or upstream, and leave the rest alone.

        An entry that lists toxics gives its proxy exactly those. An entry that lists none leaves the toxics of an equal proxy
        alone. TLS options are treated in the same way.

        Raises:
            ApiError: 400 for a toxic or TLS, 500 if an address can't be bound. Nothing has changed then.
        """
        try:
            plan = self._plan_population(bodies)
            bound = self._bind_population(plan)
        except AddressError as error:
            raise ApiError(500, str(error)) from None
        self._commit_population(plan, bound)
        return plan.result

    def _plan_population(self, bodies: list[ProxyBody]) -> _Population:
        rules = [_planned_rules(body, self.by_name.get(body.name or "")) for body in bodies]
        toxics = [_parse_toxics(body, own) for body, own in zip(bodies, rules, strict=True)]
        tls = [_create_tls(body) for body in bodies]
        plan = _Population(list(zip(bodies, toxics, tls, rules, strict=True)), {}, {}, [])
        for body in bodies:
            plan.result.append(self._plan_entry(plan, body))
        return plan

    def _plan_entry(self, plan: _Population, body: ProxyBody) -> Proxy:
        """Return the proxy for one entry, which is the present one if it is equal, or a new one."""
        name = body.name or ""
        earlier = plan.created.get(name)
        present = earlier.proxy if earlier is not None else self.by_name.get(name)
        if (
            present is not None
            and present.upstream.text == body.upstream
            and not self._differs(present, body.listen or "")
        ):
            return present
        if earlier is not None:  # its proxy stays in the result, disabled, as in Go
            if earlier.enabled:
                self._show_once_bound(earlier.proxy)
        elif present is not None:
            plan.replaced[name] = present
        creation = plan.created[name] = _Creation(self._build(body), body)
        if creation.enabled:
            creation.proxy.listen = str(self._resolve_to_listen(creation.proxy.listen))
        return creation.proxy

    def _bind_population(self, plan: _Population) -> list[tuple[Proxy, Listener]]:
        ports = _PortTransaction(old.listener for old in plan.replaced.values() if old.listener is not None)
        try:
            bound = [
                (creation.proxy, ports.bind(resolve_listen_address(creation.proxy.listen)))
                for creation in plan.created.values()
                if creation.enabled
            ]
            for _, listener in bound:
                if not listener.listening:
                    listener.listen()
        except AddressError:
            ports.rollback()
            raise
        return bound

    def _commit_population(self, plan: _Population, bound: list[tuple[Proxy, Listener]]) -> None:
        kept = [listener for _, listener in bound]
        for name, old in plan.replaced.items():
            old.close(keep_port=old.listener in kept)
            del self.by_name[name]
        for name, creation in plan.created.items():
            self.by_name[name] = creation.proxy
        for proxy, listener in bound:
            proxy.start(listener)
        for creation in plan.created.values():
            creation.proxy.set_admission(creation.body.admission)
        for body, toxics, tls, rules in plan.entries:
            if body.name in plan.created:
                continue
            proxy = self.by_name[body.name or ""]
            proxy.set_rules(rules)
            if toxics:
                _replace_toxics(proxy, toxics)
            if body.tls is not None:
                proxy.set_tls(tls)

    # --- reset -------------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Enable every proxy and remove all toxics. A proxy that can't be enabled does not keep the others from being reset.

        Raises:
            ApiError: 500 that names the proxies that can't be enabled. Their toxics are removed, too.
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
            AddressError: its address can't be bound. The proxy stays disabled.
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
        """Unlink the paths that proxies listen on, which would outlive the process."""
        for proxy in self.by_name.values():
            if proxy.listener is not None and proxy.listen.startswith("unix:"):
                proxy.listener.close()

    # --- addresses ---------------------------------------------------------------------------------------------------

    def look_up_later(self, host: str, then: Callable[[LookupResult], None]) -> None:
        """Look up a name without blocking the loop, and call `then` with the result."""
        self._runtime.resolver.resolve(host, then)

    def _resolve(self, listen: str) -> SocketAddress:
        """Return the address that a proxy listens on.

        Raises:
            AddressError: the text can't be read or resolved.
            ApiError: 400, other machines could reach the address, which this process refuses.
        """
        address = resolve_listen_address(listen, self.lookup_host)
        if self._loopback_only and address.family != AF_UNIX and not is_loopback(address.host):
            raise bad_body(
                f"listen: {listen!r} is {address}, which other machines can reach, and this proxy was started with "
                "-loopback-only: give an address of loopback, such as 127.0.0.1:0"
            )
        return address

    def _resolve_to_listen(self, listen: str) -> SocketAddress:
        """Return the address to listen on. An error has Go's prefix."""
        try:
            return self._resolve(listen)
        except AddressError as error:
            raise AddressError(f"listen tcp: {error}") from None

    def _show_once_bound(self, proxy: Proxy) -> None:
        """Give a proxy that will never listen the address that it would have got."""
        address = resolve_listen_address(proxy.listen)
        if not address.port and address.family != AF_UNIX:
            listener = Listener(address)
            proxy.listen = str(listener.address)
            listener.close()

    def _differs(self, proxy: Proxy, listen: str) -> bool:
        """True if `listen` is another address than the proxy's. Port 0 always is."""
        address = self._resolve(listen)
        return str(address) != proxy.listen or (address.port == 0 and address.family != AF_UNIX)

    # --- toxics ------------------------------------------------------------------------------------------------------

    def get_toxic(self, proxy: Proxy, name: str) -> InstalledToxic:
        """Return the toxic of that name.

        Raises:
            ApiError: 404.
        """
        toxic = proxy.find_toxic(name)
        if toxic is None:
            raise ApiError(404, "toxic not found")
        return toxic

    def add_toxic(self, proxy: Proxy, body: ToxicBody) -> InstalledToxic:
        """Put a new toxic at the end of its stream's chain.

        Raises:
            ApiError: 400 for the stream or the type, 409 for a name taken, 400 for the attributes; in this order.
        """
        toxic = _parse_toxic(body, proxy.rules, lambda name: proxy.find_toxic(name) is not None)
        proxy.add_toxic(toxic)
        return toxic

    def update_toxic(self, proxy: Proxy, toxic: InstalledToxic, body: ToxicBody) -> None:
        """Change attributes and toxicity. What the body leaves out stays. Name, type and stream may be repeated only.

        Raises:
            ApiError: 400. Nothing has changed then.
        """
        for field, sent, own in (("name", body.name, toxic.name), ("type", body.kind, toxic.kind)):
            if sent is not None and sent != own:
                raise ApiError(400, f"{field} of a toxic cannot be changed: it is {own}")
        if body.stream is not None and body.stream.lower() != toxic.stream.lower():
            raise ApiError(400, f"stream of a toxic cannot be changed: it is {toxic.stream}")
        if isinstance(toxic, InstalledRule):
            toxic.change(body)
            proxy.update_toxic(toxic)
            return
        attributes = merge_attributes(toxic.kind, body.attributes, toxic.attributes)
        toxic.update(toxicity=toxic.toxicity if body.toxicity is None else body.toxicity, attributes=attributes)
        if body.trigger is not None:
            toxic.trigger = body.trigger
        proxy.update_toxic(toxic, restart=body.trigger is not None)


def _parse_toxic(body: ToxicBody, rules: Rules | None, is_taken: Callable[[str], bool] | None = None) -> InstalledToxic:
    """Return a new toxic, or a new rule for the type "statement".

    Raises:
        ApiError: 409 for a name taken, 400 for all else.
    """
    if body.kind != STATEMENT:
        return parse_toxic(body, is_taken)
    name = body.name or f"{STATEMENT}_upstream"
    if is_taken is not None and is_taken(name):
        raise ApiError(409, "toxic already exists")
    return parse_rule(body, name, rules)


def _planned_rules(body: ProxyBody, proxy: Proxy | None) -> Rules | None:
    """Return the rules of a proxy after a request: its own, if the protocol stays as it is.

    Raises:
        ApiError: 400, the protocol can't change, because there are rules.
    """
    rules = None if proxy is None else proxy.rules
    if body.protocol is None or body.protocol == (rules.protocol if rules is not None else ""):
        return rules
    if rules is not None and rules.active:
        raise bad_body("protocol can't change while the proxy has toxics of the type statement; remove them first")
    return Rules(body.protocol) if body.protocol else None


def _parse_toxics(body: ProxyBody, rules: Rules | None) -> list[InstalledToxic]:
    toxics: dict[str, InstalledToxic] = {}
    for each in body.toxics or ():
        toxic = _parse_toxic(each, rules)
        if toxic.name in toxics:
            raise ApiError(409, "toxic already exists")
        toxics[toxic.name] = toxic
    return list(toxics.values())


def _replace_toxics(proxy: Proxy, toxics: list[InstalledToxic]) -> None:
    if [toxic.to_json() for toxic in proxy.toxics] == [toxic.to_json() for toxic in toxics]:
        return
    for toxic in list(proxy.toxics):
        proxy.remove_toxic(toxic)
    for toxic in toxics:
        proxy.add_toxic(toxic)


def _create_tls(body: ProxyBody) -> TlsConfig | None:
    if body.tls is None or not body.tls.as_json:
        return None
    from .tls_config import TlsConfig  # ssl takes as long to import as the proxy to start

    return TlsConfig(body.tls)
