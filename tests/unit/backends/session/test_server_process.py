"""Waiting for a server process, with a fake clock and fake processes."""

import pytest

from pytest_resilience.backends.session import server_process as module
from pytest_resilience.backends.session.server_process import ProcessContext, ServerProcess
from pytest_resilience.errors import BackendDied, ServerNotReady
from tests.support.clocks import FakeClock


class FakeChild:
    """A process that has ended with `code`, or that runs until it is killed (None)."""

    pid = 4711

    def __init__(self, log, text, code):
        self.log, self.code, self.killed = log, code, False
        with log.open("a") as file:
            file.write(text)

    @property
    def running(self):
        return self.exit_code() is None

    def exit_code(self):
        return -9 if self.killed and self.code is None else self.code

    def kill(self):
        self.killed = True

    def log_text(self, since=0):
        return self.log.read_bytes()[since:].decode()

    def processes(self):
        return [self.pid]

    def not_ready(self, within, since=0):
        return ServerNotReady("it", command=["it"], within=within, log=self.log_text(since), exit_code=self.exit_code())


class FakeSupervisor:
    """A supervisor with the output and exit code of each start as the test gives them."""

    def __init__(self, *starts):
        self.starts, self.children = list(starts), []

    def spawn(self, _name, _argv, *, log, **_):
        self.children.append(FakeChild(log, *self.starts.pop(0)))
        return self.children[-1]


class FakeServer(ServerProcess):
    """A server that answers the `needs`th attempt."""

    attempts = 0
    needs = 3

    def argv(self):
        return ["it", str(self.address.port)]

    def is_ready(self, child):
        self.attempts += 1
        if self.attempts < self.needs:
            raise ConnectionRefusedError
        return True


@pytest.fixture
def make(tmp_path):
    def made(*starts, needs=3):
        server = FakeServer(ProcessContext(FakeSupervisor(*starts), tmp_path, FakeClock(0.0)), "it")
        server.needs = needs
        return server

    return made


def test_a_server_is_polled_until_it_answers(make):
    server = make(("", None))
    server.launch()
    server.wait_until_ready()
    assert server.attempts == 3
    assert server._clock.now() == pytest.approx(2 * module.POLL)
    assert (server.alive(), server.processes()) == (True, [4711])


def test_a_server_that_never_answers_is_killed(make):
    server = make(("thinking\n", None), needs=10**9)
    server.launch()
    with pytest.raises(ServerNotReady, match=r"did not answer within 20 s; it is still running(?s:.*)thinking"):
        server.wait_until_ready()
    assert server._clock.now() >= module.START_WITHIN
    assert server._supervisor.children[0].killed
    server.check()


def test_a_server_that_ends_is_an_error_at_once_with_the_log_of_this_start(make):
    server = make(("first\n", None), ("second: no room\n", 1))
    server.launch()
    server.wait_until_ready()
    server._supervisor.children[0].code = 0
    with pytest.raises(ServerNotReady, match="exit code 1") as raised:
        server.start()
    assert raised.value.log == "second: no room\n"
    assert server._clock.now() < 1


TAKEN = ("bind: Address already in use\n", 1)


def test_another_port_is_tried_when_one_was_taken(make):
    server = make(TAKEN, TAKEN, ("", None))
    server.launch()
    first = server.address
    server.wait_until_ready()
    assert server.address != first


def test_the_number_of_ports_is_limited(make):
    server = make(*[TAKEN] * module.MAX_PORTS)
    server.launch()
    with pytest.raises(ServerNotReady, match="Address already in use"):
        server.wait_until_ready()
    assert server._supervisor.starts == []


def test_the_rest_of_the_last_start_is_killed_before_the_next(make):
    server = make(("", None), ("", None))
    server.launch()
    server._supervisor.children[0].code = 0
    server.start()
    assert server._supervisor.children[0].killed


@pytest.mark.parametrize(("code", "how"), [(3, "exit code 3"), (-11, "signal SIGSEGV")])
def test_an_unexpected_end_is_an_error_with_the_log(make, code, how):
    server = make(("", None))
    server.launch()
    server.check()
    server._supervisor.children[0].code = code
    with pytest.raises(BackendDied, match=rf"it ended with {how} although no test struck it.*\n\(it wrote nothing\)"):
        server.check()


def test_a_server_that_was_never_started_accepts_all_commands(make):
    server = make()
    server.kill()
    server.stop()
    server.pause()
    server.resume()
    server.check()
    assert (server.alive(), server.processes(), server.log_text(), server.log_size()) == (False, [], "", 0)
