"""Waiting for a process of ours, with time and process played."""

import pytest

from pytest_resilience.backends.embedded import server_process as local
from pytest_resilience.backends.embedded.server_process import ServerProcess
from pytest_resilience.errors import BackendDied, ServerNotReady


class FrozenClock:
    """Time passes by sleeping only."""

    def __init__(self):
        self.seconds = 0.0

    def now(self):
        return self.seconds

    def sleep(self, seconds):
        self.seconds += seconds


class PlayedChild:
    """A process that ends with `code` at once, or runs for ever (None)."""

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
    """Starts what the test has laid out: (what it writes, its exit code) for each start."""

    def __init__(self, *starts):
        self.starts, self.children = list(starts), []

    def spawn(self, _name, _argv, *, log, **_):
        self.children.append(PlayedChild(log, *self.starts.pop(0)))
        return self.children[-1]


class It(ServerProcess):
    """Answers when asked often enough."""

    asked = 0
    needs = 3

    def argv(self):
        return ["it", str(self.address.port)]

    def is_ready(self, child):
        self.asked += 1
        if self.asked < self.needs:
            raise ConnectionRefusedError
        return True


@pytest.fixture
def make(tmp_path):
    def made(*starts, needs=3):
        it = It(FakeSupervisor(*starts), "it", log=tmp_path / "it.log", clock=FrozenClock())
        it.needs = needs
        return it

    return made


def test_it_is_asked_until_it_answers(make):
    it = make(("", None))
    it.launch()
    it.wait_until_ready()
    assert it.asked == 3
    assert it._clock.now() == pytest.approx(2 * local.POLL)
    assert (it.alive(), it.processes()) == (True, [4711])


def test_one_that_never_answers_is_given_up_and_killed(make):
    it = make(("thinking\n", None), needs=10**9)
    it.launch()
    with pytest.raises(ServerNotReady, match=r"did not answer within 20 s; it is still running(?s:.*)thinking"):
        it.wait_until_ready()
    assert it._clock.now() >= local.START_WITHIN
    assert it._supervisor.children[0].killed
    it.check()


def test_one_that_ends_is_given_up_at_once_with_this_starts_log(make):
    it = make(("first\n", None), ("second: no room\n", 1))
    it.launch()
    it.wait_until_ready()
    it._supervisor.children[0].code = 0
    with pytest.raises(ServerNotReady, match="exit code 1") as raised:
        it.start()
    assert raised.value.log == "second: no room\n"
    assert it._clock.now() < 1


TAKEN = ("bind: Address already in use\n", 1)


def test_a_port_that_was_taken_is_given_up_for_another(make):
    it = make(TAKEN, TAKEN, ("", None))
    it.launch()
    first = it.address
    it.wait_until_ready()
    assert it.address != first


def test_ports_are_not_tried_for_ever(make):
    it = make(*[TAKEN] * local.MAX_PORTS)
    it.launch()
    with pytest.raises(ServerNotReady, match="Address already in use"):
        it.wait_until_ready()
    assert it._supervisor.starts == []


def test_what_is_left_of_the_last_start_is_killed_before_the_next(make):
    it = make(("", None), ("", None))
    it.launch()
    it._supervisor.children[0].code = 0
    it.start()
    assert it._supervisor.children[0].killed


@pytest.mark.parametrize(("code", "how"), [(3, "exit code 3"), (-11, "signal SIGSEGV")])
def test_an_end_that_nobody_asked_for_is_told(make, code, how):
    it = make(("", None))
    it.launch()
    it.check()
    it._supervisor.children[0].code = code
    with pytest.raises(BackendDied, match=rf"it ended with {how} although no test struck it.*\n\(it wrote nothing\)"):
        it.check()


def test_one_that_was_never_started_bears_everything(make):
    it = make()
    it.kill()
    it.stop()
    it.pause()
    it.resume()
    it.check()
    assert (it.alive(), it.processes(), it.log_text(), it.log_size()) == (False, [], "", 0)
