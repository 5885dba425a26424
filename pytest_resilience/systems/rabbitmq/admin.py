"""The administration of a RabbitMQ, by its control port."""

from __future__ import annotations

import re

from ...backends.backend import SystemServer
from ...clock import wait_until
from ...errors import CannotInject, SetupError
from ...faults.fault import Hold, Receipt
from ...faults.rabbitmq_server import Alarm
from ..system import SystemAdmin
from .program import USER, RabbitmqProgram

ACTOR = '<<"pytest-resilience">>'  # the name in the log of the broker
POLICY_PRIORITY = 1_000_000  # only one policy acts on a queue

# The definitions of all virtual hosts, users, policies, exchanges, queues and bindings.
DEFINITIONS = "rabbit_json:encode(rabbit_definitions:all_definitions())"
QUEUES = "integer_to_binary(length(rabbit_amqqueue:list()))"  # exclusive ones, which are no definitions, included
DELETE_ALL = f"""
VHosts = rabbit_vhost:list_names(),
[ok = rabbit_vhost:delete(V, {ACTOR}) || V <- VHosts, V =/= <<"/">>],
[rabbit_amqqueue:delete(Q, false, false, {ACTOR}) || Q <- rabbit_amqqueue:list(<<"/">>)],
[rabbit_exchange:delete(element(2, X), false, {ACTOR}) || X <- rabbit_exchange:list(<<"/">>),
    case element(4, element(2, X)) of <<>> -> false; <<"amq.", _/binary>> -> false; _ -> true end],
[rabbit_policy:delete(<<"/">>, proplists:get_value(name, P), {ACTOR}) || P <- rabbit_policy:list(<<"/">>)],
[rabbit_auth_backend_internal:delete_user(proplists:get_value(user, U), {ACTOR})
    || U <- rabbit_auth_backend_internal:list_users(), proplists:get_value(user, U) =/= hd(Args)],
<<"ok">>
"""
IMPORT = 'ok = rabbit_definitions:import_parsed(rabbit_json:decode(hd(Args))), <<"ok">>'

CLOSE_ALL = """
Pids = rabbit_networking:connections(),
[rabbit_networking:close_connection(Pid, "closed by a test") || Pid <- Pids],
integer_to_binary(length(Pids))
"""

# Limits, and the value of each with which the alarm is raised at once.
READ_LIMIT = {
    "memory": 'io_lib:format("~w", [vm_memory_monitor:get_vm_memory_high_watermark()])',
    "disk": 'io_lib:format("~w", [rabbit_disk_monitor:get_disk_free_limit()])',
}
SET_LIMIT = {
    "memory": 'ok = vm_memory_monitor:set_vm_memory_high_watermark({}), <<"ok">>',
    "disk": 'ok = rabbit_disk_monitor:set_disk_free_limit({}), <<"ok">>',
}
ALARMS = 'io_lib:format("~w", [rabbit_alarm:get_alarms()])'
ALARM_WITHIN = 2.0  # seconds; it takes a few milliseconds
ALARMING = {"memory": "0.0", "disk": str(1 << 60)}

# A process in the broker collects the connections that are blocked, because one that has ended since could not be asked.
WATCH_BLOCKED = """
Name = binary_to_atom(hd(Args), utf8),
Look = fun(Seen) ->
    lists:foldl(fun(Pid, Found) ->
        try rabbit_networking:connection_info(Pid, [state]) of
            [{state, blocked}] -> Found#{Pid => true};
            _ -> Found
        catch _:_ -> Found
        end
    end, Seen, rabbit_networking:connections())
end,
Loop = fun Loop(Seen) ->
    receive
        {count, From} ->
            Now = Look(Seen),
            From ! {counted, maps:size(Now)},
            Loop(Now);
        stop -> ok
    after 20 -> Loop(Look(Seen))
    end
end,
register(Name, spawn(fun() -> Loop(#{}) end)),
<<"ok">>
"""
# The value is "lost" if the broker has started again since.
COUNT = """
case whereis(binary_to_atom(hd(Args), utf8)) of
    undefined -> <<"lost">>;
    Pid -> Pid ! {count, self()}, receive {counted, N} -> integer_to_binary(N) after 5000 -> error(no_answer) end
end
"""
STOP_WATCH = """
case whereis(binary_to_atom(hd(Args), utf8)) of undefined -> ok; Pid -> Pid ! stop end, <<"ok">>
"""

# A queue with a new limit first drops the messages beyond it, unless it rejects already. So the policy is set twice.
# All messages that a classic queue receives while it is full are rejected, so that a trace of its process counts them.
FILL = f"""
[VHost, Queue, Policy, Pattern, Priority, Name] = Args,
case rabbit_amqqueue:lookup(rabbit_misc:r(VHost, queue, Queue)) of
    {{ok, Q}} ->
        Old = case amqqueue:get_policy(Q) of
            undefined -> [];
            Present -> proplists:get_value(definition, Present, [])
        end,
        Kept = [Pair || {{Key, _}} = Pair <- Old, Key =/= <<"max-length">>, Key =/= <<"overflow">>],
        Pid = amqqueue:get_pid(Q),
        Count = fun Count(N) ->
            receive
                {{trace, _, 'receive', _}} -> Count(N + 1);
                {{count, From}} -> From ! {{counted, N}}, Count(N);
                stop -> ok
            end
        end,
        Set = fun(Definition) ->
            ok = rabbit_policy:set(VHost, Policy, Pattern, Definition, binary_to_integer(Priority), <<"queues">>, {ACTOR}),
            rabbit_amqqueue:info(Q, [messages])
        end,
        Reject = {{<<"overflow">>, <<"reject-publish">>}},
        Set([Reject | Kept]),
        Set([{{<<"max-length">>, 0}}, Reject | Kept]),
        case is_pid(Pid) of
            true ->
                Counter = spawn(fun() -> Count(0) end),
                register(binary_to_atom(Name, utf8), Counter),
                erlang:trace_pattern('receive', [{{['_', '_', {{'$gen_cast', {{deliver, '_', '_'}}}}], [], []}}], []),
                erlang:trace(Pid, true, ['receive', {{tracer, Counter}}]),
                <<"counted">>;
            false -> <<"uncounted">>
        end;
    _ -> iolist_to_binary(["missing" | [[<<0>>, element(4, amqqueue:get_name(Each))] || Each <- rabbit_amqqueue:list(VHost)]])
end
"""
EMPTY = f"""
[VHost, Policy, Name] = Args,
rabbit_policy:delete(VHost, Policy, {ACTOR}),
case whereis(binary_to_atom(Name, utf8)) of undefined -> ok; Pid -> Pid ! stop end,
<<"ok">>
"""


class RabbitmqAdmin(SystemAdmin):
    """The administrator of one RabbitMQ.

    Args:
        server: the server.
        program: its program, which has the control port.
    """

    program: RabbitmqProgram

    def __init__(self, server: SystemServer, program: RabbitmqProgram) -> None:
        self._server = server
        self.program = program
        self._definitions = ""
        self._limits = {alarm: self.evaluate(READ_LIMIT[alarm]) for alarm in SET_LIMIT}
        self._alarms: list[BlockedConnections] = []
        self._number = 0

    def evaluate(self, expression: str, *arguments: str) -> str:
        """Let the broker evaluate an expression. See `Control.evaluate`."""
        return self.program.control.evaluate(self._server.addresses[1], expression, *arguments)

    def take_baseline(self) -> None:
        self._definitions = self.evaluate(DEFINITIONS)

    def clean(self, *, settings: bool = True) -> None:
        if settings:
            for alarm, limit in self._limits.items():
                self.set_limit(alarm, limit)
        if self.evaluate(QUEUES) != "0" or self.evaluate(DEFINITIONS) != self._definitions:
            self.evaluate(DELETE_ALL, USER)
            self.evaluate(IMPORT, self._definitions)

    def set_limit(self, alarm: str, limit: str) -> None:
        """Set the limit of an alarm, as an Erlang term."""
        self.evaluate(SET_LIMIT[alarm].format(limit))

    # The faults

    def close_connections(self) -> int:
        """Close the connections of all clients. Return their number."""
        return int(self.evaluate(CLOSE_ALL))

    def raise_alarm(self, alarm: Alarm) -> Hold:
        """Raise an alarm, which blocks the connections that publish."""
        hold = BlockedConnections(self, alarm, self._next_name("blocked"), self._alarms)
        hold.acquire()
        return hold

    def lower_alarm(self, alarm: Alarm) -> None:
        """End an alarm."""
        self.set_limit(alarm, self._limits[alarm])

    def fill_queue(self, queue: str, vhost: str, fault: str) -> Hold:
        """Let a queue refuse all messages that are published.

        Raises:
            SetupError: there is no such queue.
        """
        hold = FullQueue(self, queue, vhost, self._next_name("full"))
        hold.acquire(fault)
        return hold

    def count(self, name: str) -> int | None:
        """Return the count of a process in the broker, or None if the broker has started again since."""
        found = self.evaluate(COUNT, name)
        return None if found == "lost" else int(found)

    def _next_name(self, kind: str) -> str:
        """Return a new name for a process in the broker."""
        self._number += 1
        return f"resilience_{kind}_{self._number}"


class BlockedConnections:
    """An alarm, with the connections that it blocks.

    Args:
        admin: the administrator.
        alarm: "memory" or "disk".
        name: the name of the process in the broker that collects the connections.
        active: the active alarms of the broker.
    """

    def __init__(self, admin: RabbitmqAdmin, alarm: Alarm, name: str, active: list[BlockedConnections]) -> None:
        self._admin = admin
        self.alarm = alarm
        self._name = name
        self._active = active

    def acquire(self) -> None:
        """Raise the alarm.

        Raises:
            CannotInject: the broker does not monitor that resource.
        """
        self._admin.evaluate(WATCH_BLOCKED, self._name)
        self._active.append(self)
        self._admin.set_limit(self.alarm, ALARMING[self.alarm])
        if not wait_until(lambda: self.alarm in self._admin.evaluate(ALARMS), within=ALARM_WITHIN, every=0.01):
            self.release()
            raise CannotInject(
                f"rabbitmq.{self.alarm}_alarm: the monitor of this broker does not run here; see its log"
            )

    def receipt(self) -> Receipt:
        """Return the number of connections that were blocked so far."""
        return Receipt(self._admin.count(self._name), "connections")

    def release(self) -> None:
        """End the alarm, unless another strike has raised it too."""
        if not any(each.alarm == self.alarm for each in self._active if each is not self):
            self._admin.lower_alarm(self.alarm)
        self._admin.evaluate(STOP_WATCH, self._name)
        self._active.remove(self)


class FullQueue:
    """A queue that is full by a policy.

    Args:
        admin: the administrator.
        queue: the name of the queue.
        vhost: its virtual host.
        name: the name of the policy, and of the process in the broker that counts rejected messages.
    """

    def __init__(self, admin: RabbitmqAdmin, queue: str, vhost: str, name: str) -> None:
        self._admin = admin
        self._queue = queue
        self._vhost = vhost
        self._name = name
        self._is_counted = False

    def acquire(self, fault: str) -> None:
        """Set the policy.

        Raises:
            SetupError: there is no such queue.
        """
        arguments = (
            self._vhost,
            self._queue,
            self._name,
            f"^{re.escape(self._queue)}$",
            str(POLICY_PRIORITY),
            self._name,
        )
        outcome, *queues = self._admin.evaluate(FILL, *arguments).split("\0")
        if outcome == "missing":
            raise SetupError(
                f"{fault}: no such queue; the virtual host {self._vhost!r} has: {', '.join(queues) or 'none'}"
            )
        self._is_counted = outcome == "counted"

    def receipt(self) -> Receipt:
        """Return the number of rejected messages. It is unknown for a quorum queue."""
        if not self._is_counted:
            return Receipt(None, "messages")
        return Receipt(self._admin.count(self._name), "messages")

    def release(self) -> None:
        """Remove the policy."""
        self._admin.evaluate(EMPTY, self._vhost, self._name, self._name)
