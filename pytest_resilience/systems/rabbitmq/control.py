"""The control port of a RabbitMQ: Erlang expressions that the broker evaluates.

Each start of `rabbitmqctl` takes a second. So the broker runs a script when it starts, which listens on a port of its own and evaluates
the expressions of those who have its token. The environment has script and token.
"""

from __future__ import annotations

import secrets
import struct

from ...backends.backend import Address
from ...clients.receive import receive_all
from ...errors import ResilienceError
from ...redaction import remember

PORT = 25680
TOKEN_BYTES = 32
WITHIN = 10.0  # seconds for an answer; most take a millisecond, the removal of many queues more
SCRIPT_VARIABLE, TOKEN_VARIABLE = "RESILIENCE_CONTROL", "RESILIENCE_TOKEN"
# A request is the token, the expression and its arguments, with zeros between them. The first byte of the answer is 0 for success.
SCRIPT = """
Token = list_to_binary(os:getenv("%(token)s")),
Evaluate = fun(Text, Args) ->
    {ok, Tokens, _} = erl_scan:string(unicode:characters_to_list([Text, $.])),
    {ok, Expressions} = erl_parse:parse_exprs(Tokens),
    {value, Value, _} = erl_eval:exprs(Expressions, [{'Args', Args}]),
    iolist_to_binary(Value)
end,
Answer = fun(Text, Args) ->
    try [0, Evaluate(Text, Args)]
    catch _:Reason -> [1, unicode:characters_to_binary(io_lib:format("~0tp", [Reason]))]
    end
end,
Serve = fun(Socket) ->
    case gen_tcp:recv(Socket, 0, 5000) of
        {ok, <<Given:%(size)d/binary, Request/binary>>} when Given =:= Token ->
            [Text | Args] = binary:split(Request, <<0>>, [global]),
            gen_tcp:send(Socket, Answer(Text, Args));
        _ -> ok
    end,
    gen_tcp:close(Socket)
end,
Accept = fun Accept(Listener) ->
    case gen_tcp:accept(Listener) of
        {ok, Socket} ->
            Child = spawn(fun() -> receive go -> Serve(Socket) end end),
            ok = gen_tcp:controlling_process(Socket, Child),
            Child ! go;
        _ -> timer:sleep(10)
    end,
    Accept(Listener)
end,
spawn(fun() ->
    {ok, Listener} = gen_tcp:listen(%(port)d, [binary, {packet, 4}, {active, false}, {reuseaddr, true}, {backlog, 64}]),
    Accept(Listener)
end).
"""


class ControlError(ResilienceError):
    """The broker could not evaluate an expression."""


class Control:
    """The client of the control port.

    Args:
        port: the port on which the broker listens.
    """

    def __init__(self, port: int = PORT) -> None:
        self._port = port
        self._token = secrets.token_hex(TOKEN_BYTES // 2)
        remember(self._token)

    def environment(self) -> dict[str, str]:
        """Return the variables of the script."""
        script = SCRIPT % {"token": TOKEN_VARIABLE, "size": TOKEN_BYTES, "port": self._port}
        return {SCRIPT_VARIABLE: script, TOKEN_VARIABLE: self._token}

    def evaluate(self, address: Address, expression: str, *arguments: str) -> str:
        """Let the broker evaluate an expression whose value is text.

        Args:
            address: the address of the control port.
            expression: Erlang expressions, separated by commas.
            arguments: the list `Args` of binaries in the expression.

        Raises:
            ControlError: the expression has failed; the message has the reason.
            OSError: the broker does not answer.
        """
        from ...backends.managed_server import connect_and_send

        request = self._token.encode() + b"\0".join(each.encode() for each in (expression, *arguments))
        with connect_and_send(address, struct.pack(">I", len(request)) + request) as connection:
            connection.settimeout(WITHIN)
            answer = receive_all(connection)[4:]
        if not answer:
            raise ConnectionError("the broker has closed its control connection without an answer")
        text = answer[1:].decode(errors="replace")
        if answer[0]:
            raise ControlError(f"RabbitMQ could not do that: {text[:500]}")
        return text
