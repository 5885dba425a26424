"""A toxic of the type "statement", which is a rule for the taps and not a stage of the links."""

from __future__ import annotations

from typing import Any

from ...wire import toxiproxy as wire
from ...wire.api_error import ApiError, bad_body
from ...wire.statement_rule import read_rule
from ..installed_toxic import InstalledToxic
from .rule import Rule, Rules

KIND = "statement"


class InstalledRule(InstalledToxic):
    """One rule of one proxy, with the name and the interface of a toxic.

    Args:
        name: unique in the proxy.
        attributes: a decoded JSON value.
        rules: of the proxy.

    Raises:
        ApiError: 400 for the attributes.
    """

    __slots__ = ("_rules", "rule")

    on_links = False

    def __init__(self, name: str, attributes: Any, rules: Rules) -> None:
        settings = read_rule(attributes, rules.protocol)
        super().__init__(name=name, kind=KIND, stream="upstream", toxicity=1.0, attributes=settings.as_json())
        self._rules = rules
        self.rule = Rule(settings)

    def change(self, body: wire.ToxicBody) -> None:
        """Take new attributes. What the body leaves out stays, and the counts continue. What the rule holds is released.

        Raises:
            ApiError: 400. Nothing has changed then.
        """
        check_rule_body(body)
        settings = read_rule(body.attributes, self._rules.protocol, self.attributes)
        self.attributes = settings.as_json()
        self.rule.change(settings)
        self._rules.forget_candidates()
        self.rule.release()

    def install(self) -> None:
        """Have the taps follow the rule."""
        self._rules.active = (*self._rules.active, self.rule)

    def uninstall(self) -> None:
        """Have the taps follow the rule no more, and release what the rule holds."""
        self._rules.active = tuple(each for each in self._rules.active if each is not self.rule)
        self.rule.release()

    def counters_json(self) -> dict[str, Any]:
        """Return the figures for GET /proxies/{p}/counters."""
        return self.rule.counters_json()


def check_rule_body(body: wire.ToxicBody) -> None:
    """Refuse the keys of a toxic that a rule has no use for.

    Raises:
        ApiError: 400.
    """
    if body.trigger is not None:
        raise bad_body("a statement has no after, count and connections beside its attributes; see attributes.after")
    if body.toxicity not in (None, 1.0):
        raise bad_body("toxicity of a statement must be 1; see attributes.nth and every")


def parse_rule(body: wire.ToxicBody, name: str, rules: Rules | None) -> InstalledRule:
    """Return a new rule from the body of its creation.

    Args:
        body: of the request.
        name: of the rule.
        rules: of the proxy; None for a proxy without protocol.

    Raises:
        ApiError: 400.
    """
    if rules is None:
        raise ApiError(
            400, 'bad request body: the proxy has no protocol; set its "protocol" to postgres or redis first'
        )
    if body.stream is not None and body.stream.lower() != "upstream":
        raise bad_body(f"stream of a statement must be upstream, not {body.stream}")
    check_rule_body(body)
    return InstalledRule(wire.check_name(name), body.attributes, rules)
