"""`steady`, `jobs` and `silence` report which of before, during and after a fault is wrong."""

from __future__ import annotations

import pytest

STEADY = r"""
import asyncio, re, threading, pytest, redis, redis.asyncio
from pytest_resilience import NotSteady, SetupError

@pytest.fixture
def client(resilience):
    with redis.Redis.from_url(resilience.redis.url, retry=None, socket_timeout=5) as client:
        client.set("lamp", "3")
        yield client

def failure(experiment):
    with pytest.raises(NotSteady) as raised:
        experiment()
    return str(raised.value)

def test_an_answer_that_is_always_true(resilience, client):
    with resilience.steady(lambda: client.get("lamp") == b"3") as steady:
        with resilience.redis.latency(0.01):
            pass
        steady.ask()
    assert [each.phase for each in steady.answers] == [
        "before", "during redis.latency(seconds=0.01)", "between strikes", "after"
    ]

def test_during(resilience, client):
    def experiment():
        with resilience.steady(lambda: client.get("lamp")):
            with resilience.redis.refuse():
                pass
    text = failure(experiment)
    assert "the answer was not true during redis.refuse" in text
    assert "before: b'3' in " in text and "during redis.refuse: raised ConnectionError: " in text
    assert "after: b'3' in " in text and "struck by then: redis.refuse" in text

def test_after(resilience, client):
    def experiment():
        with resilience.steady(lambda: client.get("lamp"), within=0.2):
            resilience.redis.flush()
    text = failure(experiment)
    assert "the answer was not true" in text and "after: None in " in text and "struck by then: redis.flush" in text

def test_red_before_any_strike(resilience):
    text = failure(lambda: resilience.steady(lambda: False))
    assert "the answer was not true before the experiment, and nothing had struck" in text

def test_red_after_a_strike(resilience, client):
    resilience.redis.flush()
    text = failure(lambda: resilience.steady(lambda: client.get("lamp")))
    assert "before the experiment, after redis.flush" in text

@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_died_is_named(resilience, client):
    stop = threading.Event()
    def work():
        stop.wait()
        raise KeyError("lamp")
    thread = threading.Thread(target=work, name="watcher")
    thread.start()
    def experiment():
        with resilience.steady(lambda: client.get("lamp")):
            with resilience.redis.latency(0.001):
                client.ping()
            stop.set()
            thread.join()
    text = failure(experiment)
    assert "the answers were true, and something has died meanwhile" in text
    assert "\n  the thread watcher has died: KeyError: 'lamp'\n" in text

def test_a_task_that_died_is_named(resilience):
    async def body():
        async with redis.asyncio.Redis.from_url(resilience.redis.url, retry=None) as client:
            await client.set("lamp", "3")
            go = asyncio.Event()
            async def work():
                await go.wait()
                raise KeyError("lamp")
            task = asyncio.create_task(work(), name="refresher")
            await asyncio.sleep(0)
            async with resilience.steady(lambda: client.get("lamp")) as steady:
                with resilience.redis.latency(0.001):
                    await steady.check()
                go.set()
                await asyncio.wait({task})
    text = failure(lambda: asyncio.run(body()))
    assert "the answers were true, and something has died meanwhile" in text
    assert "\n  the task refresher has died: KeyError: 'lamp'\n" in text
    assert "during redis.latency(seconds=0.001): b'3' in " in text

def test_what_had_struck_when_the_answer_failed(resilience, client):
    def experiment():
        with resilience.steady(lambda: client.get("lamp") == b"3", within=5):
            with resilience.redis.latency(0.001):
                client.set("lamp", "4")
            with resilience.redis.slicer(2):
                pass
            client.set("lamp", "3")
            with resilience.redis.latency(0.3):
                pass
    text = failure(experiment)
    assert "the answer was not true during redis.slicer(average_bytes=2)" in text
    assert "\n  struck by then: redis.latency(seconds=0.001), redis.slicer(average_bytes=2)\n" in text
    assert text.endswith("\n  struck later: redis.latency(seconds=0.3)")

def test_how_the_answers_compare_with_before(resilience, client):
    def experiment():
        with resilience.steady(lambda: client.get("lamp"), within=0.2):
            with resilience.redis.latency(0.3):
                pass
            client.set("lamp", "4")
            with resilience.redis.latency(0.001):
                pass
            client.delete("lamp")
    text = failure(experiment)
    assert re.search(r"\n  during redis.latency\(seconds=0.3\): b'3' in 0.\d+ s, the answer as before, \d+ times as long as before\n", text)
    assert re.search(r"\n  during redis.latency\(seconds=0.001\): b'4' in 0.\d+ s, another answer than before", text)
    assert re.search(r"\n  after: None in 0.\d+ s, another answer than before", text)

def test_an_abandoned_experiment_leaves_no_hook(resilience, client):
    hook = threading.excepthook
    with pytest.raises(ZeroDivisionError):
        with resilience.steady(lambda: client.get("lamp")):
            1 / 0
    failure(lambda: resilience.steady(lambda: False))
    async def body():
        with pytest.raises(ZeroDivisionError):
            async with resilience.steady(lambda: True):
                1 / 0
    asyncio.run(body())
    assert threading.excepthook is hook

def test_an_error_of_the_test_in_the_question_is_raised_in_an_async_test(resilience, client):
    def question():
        if resilience.redis.active_strikes():
            raise SetupError("wrong")
        return True
    async def body():
        async with resilience.steady(question):
            resilience.redis.flush()
            await asyncio.sleep(0)
    with pytest.raises(SetupError, match="wrong"):
        asyncio.run(body())

def test_the_death_of_a_task_that_the_first_question_began_is_named(resilience):
    async def body():
        tasks, go = [], asyncio.Event()
        async def work():
            await go.wait()
            raise KeyError("lamp")
        async def question():
            tasks.append(asyncio.create_task(work(), name="reader"))
            await asyncio.sleep(0)
            return True
        async with resilience.steady(question):
            go.set()
            await asyncio.wait(tasks)
    assert "the task reader has died: KeyError: 'lamp'" in failure(lambda: asyncio.run(body()))

def test_misuse(resilience):
    async def question():
        return True
    with pytest.raises(SetupError, match="an async function needs an async test"):
        resilience.steady(question)
    with pytest.raises(SetupError, match="takes a callable"):
        resilience.steady(True)
    with pytest.raises(SetupError, match="within is in seconds above 0"):
        resilience.steady(lambda: True, within=0)
    async def body():
        with resilience.steady(lambda: True):
            pass
    with pytest.raises(SetupError, match="use `async with resilience.steady"):
        asyncio.run(body())
"""


def test_steady(project: pytest.Pytester) -> None:
    project.makepyfile(STEADY)
    result = project.runpytest_inprocess("-p", "no:asyncio", "-p", "no:anyio", "--resilience-leaks=error")
    result.stdout.fnmatch_lines("*= 13 passed, *")


def test_an_experiment_without_a_block_ends_with_the_test(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        def test_it(resilience):
            answers = iter([True, False, True])
            resilience.steady(lambda: next(answers))
            resilience.redis.latency(0.001)
        """
    )
    result = project.runpytest_inprocess("-p", "no:asyncio", "-p", "no:anyio")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E*NotSteady: *the answer was not true during redis.latency(seconds=0.001)",
            "E*during redis.latency*: False in *",
        ]
    )


JOBS = r'''
import threading, time, pytest, redis
from pytest_resilience import NotSteady, SetupError

class Worker(threading.Thread):
    """A worker that blocks on a list, and that reacts to an error in its own way."""

    def __init__(self, url, on_error):
        super().__init__(name="worker", daemon=True)
        self.client = redis.Redis.from_url(url, retry=None, socket_timeout=5)
        self.on_error = on_error
        self.ran, self.stopping, self.polls = [], threading.Event(), False

    def run(self):
        while not self.stopping.is_set():
            try:
                if self.polls:
                    time.sleep(1.5)
                    job = self.client.lpop("jobs")
                    item = ("jobs", job) if job else None
                else:
                    item = self.client.blpop("jobs", timeout=0.2)
            except redis.RedisError:
                if self.on_error == "dies":
                    return
                self.polls = self.on_error == "polls"
                self.stopping.wait(0.01)
                continue
            if item:
                self.ran.append(item[1].decode())

@pytest.fixture
def start(resilience):
    workers = []
    def start(on_error):
        workers.append(Worker(resilience.redis.url, on_error))
        workers[-1].start()
        return workers[-1]
    yield start
    for each in workers:
        each.stopping.set()
        each.join()
        each.client.close()

@pytest.fixture
def queue(resilience):
    with redis.Redis.from_url(resilience.redis.url, retry=None, socket_timeout=5) as queue:
        yield queue

def test_a_worker_that_comes_back(resilience, start, queue):
    worker = start("waits")
    with resilience.jobs(enqueue=lambda job: queue.rpush("jobs", job), ran=lambda: worker.ran, within=30) as jobs:
        with resilience.redis.reset():
            pass
        with resilience.redis.latency(0.01):
            pass
    assert len(jobs.before) == 3 and len(jobs.after) >= 3 and len(jobs.refused) <= 1

def test_a_worker_that_polls_for_ever(resilience, start, queue):
    worker = start("polls")
    with pytest.raises(NotSteady) as raised:
        with resilience.jobs(enqueue=lambda job: queue.rpush("jobs", job), ran=lambda job: job in worker.ran, within=4):
            with resilience.redis.reset() as strike:
                while not worker.polls:
                    time.sleep(0.001)
    text = str(raised.value)
    assert "jobs: they run, and take " in text and " times as long (at most " in text and "the worker polls, or waits for a time-out, instead of being woken" in text
    assert "1 job could not be enqueued, the first because of ConnectionError" in text and "struck so far: redis.reset" in text

def test_a_worker_that_is_gone(resilience, start, queue):
    worker = start("dies")
    def enqueue():
        queue.rpush("jobs", f"job {queue.incr('number')}")
        return f"job {queue.get('number').decode()}"
    with pytest.raises(NotSteady) as raised:
        with resilience.jobs(enqueue=enqueue, ran=lambda: worker.ran, within=3):
            resilience.redis.reset().heal()
            worker.join()
            with resilience.redis.latency(0.001):
                pass
    assert "jobs: not run within 3 s after the heal: job 'job 4', enqueued during redis.latency(seconds=0.001)" in str(raised.value)

def test_no_worker(resilience, queue):
    with pytest.raises(NotSteady, match="jobs: before any fault, a job has not run within 0.1 s"):
        resilience.jobs(enqueue=lambda job: queue.rpush("jobs", job), ran=lambda: [], within=0.1)

def test_misuse(resilience):
    with pytest.raises(SetupError, match="count is from 1 on"):
        resilience.jobs(enqueue=print, ran=list, count=0)
'''


def test_jobs(project: pytest.Pytester) -> None:
    project.makepyfile(JOBS)
    result = project.runpytest_inprocess("-p", "no:asyncio", "-p", "no:anyio", "--resilience-leaks=error")
    result.stdout.fnmatch_lines("*= 5 passed, *")


def test_silence(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import asyncio, pytest, redis
        from pytest_resilience import SetupError

        def test_sync(resilience):
            with redis.Redis.from_url(resilience.redis.url) as client:
                client.ping()
                silence = resilience.silence(0.05)
                assert str(silence.receipt) == "affected 1 connection (no byte passed)"

        def test_async(resilience):
            async def body():
                with redis.Redis.from_url(resilience.redis.url) as idle, redis.Redis.from_url(resilience.redis.url) as busy:
                    idle.ping(), busy.ping()
                    silence = resilience.silence(0.05)
                    busy.get("lamp")
                    await silence
                    note = "bytes passed on 1 connection that opened, closed or worked)"
                    assert str(silence.receipt).startswith("affected 1 connection (") and str(silence.receipt).endswith(note)
            asyncio.run(body())

        def test_vacuous(resilience):
            resilience.silence(0.01)

        def test_wrong(resilience):
            with pytest.raises(SetupError, match="seconds must be above 0, got 0"):
                resilience.silence(0)
        """
    )
    result = project.runpytest_inprocess("-p", "no:asyncio", "-p", "no:anyio")
    result.stdout.fnmatch_lines(
        ["VACUOUS *::test_vacuous: silence(0.01) affected no connections", "*3 passed*1 vacuous*"]
    )


def test_silence_counts_the_connections_of_tcp_systems(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import http.client
        from pytest_resilience import factories

        payments = factories.http_stub("payments")

        def test_it(resilience, payments):
            payments.answer("/", 200)
            connection = http.client.HTTPConnection(payments.host, payments.port)
            connection.request("GET", "/")
            assert connection.getresponse().read() == b""
            assert str(resilience.silence(0.05).receipt) == "affected 1 connection (no byte passed)"
            connection.close()
        """
    )
    result = project.runpytest_inprocess("-p", "no:asyncio", "-p", "no:anyio", "--resilience-strict")
    result.stdout.fnmatch_lines("*= 1 passed, *")


def test_the_first_answer_after_a_silence_must_be_true(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import asyncio, pytest, redis
        from pytest_resilience import NotSteady

        FIRST_IS_WRONG = "the answer was not true after silence(0.05)"

        @pytest.fixture(autouse=True)
        def idle(resilience):
            with redis.Redis.from_url(resilience.redis.url) as client:
                client.ping()
                yield client

        def test_sync(resilience):
            answers = iter([True, False, True])
            with pytest.raises(NotSteady) as raised, resilience.steady(lambda: next(answers)):
                resilience.silence(0.05)
            assert FIRST_IS_WRONG in str(raised.value) and "  after silence(0.05): False in " in str(raised.value)

        def test_async(resilience):
            async def body():
                answers = iter([True, False, True])
                with pytest.raises(NotSteady) as raised:
                    async with resilience.steady(lambda: next(answers)):
                        await resilience.silence(0.05)
                assert FIRST_IS_WRONG in str(raised.value)
            asyncio.run(body())

        def test_a_second_silence(resilience):
            answers = iter([True, True, False, True])
            with pytest.raises(NotSteady, match="not true after silence"), resilience.steady(lambda: next(answers)):
                resilience.silence(0.05)
                resilience.silence(0.05)

        def test_a_client_may_still_recover_from_a_fault(resilience, idle):
            answers = iter([True, True, False, True])
            with resilience.steady(lambda: next(answers)) as steady:
                with resilience.redis.latency(0.01):
                    idle.ping()
                resilience.silence(0.05)
            assert [each.phase for each in steady.answers] == ["before", "during redis.latency(seconds=0.01)", "after"]

        def test_jobs_are_enqueued_after_it(resilience):
            ran = []
            with resilience.jobs(enqueue=ran.append, ran=lambda: ran):
                resilience.silence(0.05)
        """
    )
    result = project.runpytest_inprocess("-p", "no:asyncio", "-p", "no:anyio")
    result.stdout.fnmatch_lines("*= 5 passed, *")
