"""The service under test is a separate process. Errors of its start and its requests are described."""

from __future__ import annotations

import sys

import pytest

linux = pytest.mark.skipif(sys.platform != "linux", reason="modules are preloaded only on Linux")


def preload(shop: pytest.Pytester, *modules: str) -> None:
    conftest = (shop.path / "conftest.py").read_text()
    shop.makeconftest(conftest.replace("within=10.0", f"preload={modules!r}"))


@pytest.mark.parametrize("modules", [(), pytest.param(("asyncpg", "redis"), marks=linux)], ids=["plain", "preloaded"])
def test_process_faults_strike_the_service_and_heal(shop: pytest.Pytester, modules: tuple[str, ...]) -> None:
    preload(shop, *modules)
    shop.makepyfile(
        """
        import httpx, pytest, sys
        from pytest_resilience import eventually

        def test_kill(resilience):
            service, port = resilience.service, resilience.service.url
            pid = service.process.pid
            with service.kill() as strike:
                with pytest.raises(httpx.ConnectError) as failure:
                    service.get("/memory")
                assert "exited with exit code -9" in failure.value.__notes__[0]
            assert service.url == port and service.process.pid != pid
            assert service.get("/memory").status_code == 200
            assert strike.receipt.touched == 1 and strike.receipt.unit == "processes"

        def test_terminate(resilience):
            with resilience.service.terminate():
                with pytest.raises(httpx.ConnectError):
                    resilience.service.get("/memory")
            assert resilience.service.get("/memory").status_code == 200

        def test_pause(resilience):
            with resilience.service.pause():
                with pytest.raises(httpx.TimeoutException):
                    resilience.service.get("/memory", timeout=0.3)
            assert resilience.service.get("/memory").status_code == 200

        def test_restart(resilience):
            pid = resilience.service.process.pid
            resilience.service.restart()
            assert resilience.service.process.pid != pid
            assert resilience.service.get("/memory").status_code == 200

        @pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA of another process is Linux'")
        def test_memory_pressure(resilience):
            import psutil
            before = resilience.service.process.rlimit(psutil.RLIMIT_DATA)
            with resilience.service.memory_pressure(headroom_mb=10) as strike:
                limit = resilience.service.process.rlimit(psutil.RLIMIT_DATA)[0]
                assert 0 < limit < 1000 * 2**20
            assert resilience.service.process.rlimit(psutil.RLIMIT_DATA) == before
            assert strike.receipt.touched in (0, None), "no allocation was refused"

        def test_requests_of_all_kinds(resilience):
            assert resilience.service.client.base_url == resilience.service.url
            for method in ("post", "put", "delete"):
                assert getattr(resilience.service, method)("/x").status_code == 501
        """
    )
    outcomes = shop.runpytest_subprocess().parseoutcomes()
    assert outcomes.pop("passed") + outcomes.pop("vacuous", 0) == 6
    assert not outcomes


def test_the_error_of_a_service_that_exits_at_once_shows_command_and_log(shop: pytest.Pytester) -> None:
    shop.makepyfile(shop="import sys; sys.exit('shop: no such shop')", test_it="def test_it(resilience): pass")
    result = shop.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            ">*def test_it(resilience): pass",
            "E *ServerNotReady: the service ended with exit code 1 after *s, before it was ready",
            "E *command: *shop.py",
            "E *shop: no such shop",
        ]
    )
    result.stdout.no_fnmatch_line("*pytest_resilience/*")


def test_the_error_of_a_service_that_is_never_ready_shows_its_time_and_log(shop: pytest.Pytester) -> None:
    shop.makeconftest((shop.path / "conftest.py").read_text().replace("within=10.0", "within=0.5"))
    shop.makepyfile(
        shop="import time; print('shop: thinking', flush=True); time.sleep(60)", test_it="def test_it(resilience): pass"
    )
    result = shop.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "E *the service did not answer within 0.5 s; it is still running",
            "E *GET /readyz on port * ConnectionRefusedError*",
            "E *it listens on no port",
            "E *shop: thinking",
        ]
    )


@linux
def test_a_module_that_can_not_be_preloaded_is_an_error_once_and_then_in_one_line(shop: pytest.Pytester) -> None:
    preload(shop, "settings")
    shop.makepyfile(
        settings="import os; url = os.environ.get('DATABASE_URL')",
        test_it="def test_one(resilience): pass\ndef test_two(resilience): pass",
    )
    result = shop.runpytest_subprocess()
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        [
            "E *CannotStart: the service could not be started: 'settings' reads DATABASE_URL from the environment while it is *",
            "E *CannotStart: not started again, because an earlier start failed: *'settings' reads DATABASE_URL*",
        ]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "['uvicorn', 'shop:app'], preload=['shop']",
            "needs the command of a Python program, *'uvicorn', which is no Python *",
        ),
        ("[sys.executable, '-m', 'shop'], preload='shop'", "is a sequence of module names such as *, got 'shop'"),
        ("[sys.executable, '-m', 'shop'], preload=['shop.__main__']", "*shop.__main__ would run a second time*"),
    ],
)
def test_a_wrong_preload_is_an_error_at_set_up_time(project: pytest.Pytester, arguments: str, message: str) -> None:
    project.makepyfile(f"import sys; from pytest_resilience import Service; Service({arguments})")
    result = project.runpytest_subprocess()
    result.stdout.fnmatch_lines([f"E *SetupError: Service(preload=...) {message}"])


def test_a_spawned_process_ends_with_its_test(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import os, sys, psutil

        def test_one(resilience):
            child = resilience.spawn("sleeper", [sys.executable, "-c", "import time; time.sleep(600)"], env=dict(os.environ))
            assert child.running
            test_one.process = psutil.Process(child.pid)

        def test_two():
            assert not test_one.process.is_running()
        """
    )
    project.runpytest_subprocess().assert_outcomes(passed=2)


def test_without_a_service_fixture_the_error_shows_the_lines_to_write(project: pytest.Pytester) -> None:
    project.makepyfile("def test_it(resilience): resilience.service")
    result = project.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["E *NoService: *", "E *def resilience_service(resilience_stack):", "E *return Service(*"]
    )


def test_a_service_fixture_with_a_wrong_value_is_an_error_that_names_the_right_type(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="session")
        def resilience_service():
            return ["python", "-m", "shop"]

        def test_it(resilience): pass
        """
    )
    result = project.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["E *SetupError: the fixture resilience_service must return a *Service or None, got a list"]
    )


def test_an_environment_is_not_shown(shop: pytest.Pytester) -> None:
    shop.makeconftest((shop.path / "conftest.py").read_text().replace("env={", "env={'SECRET': 'hunter2', "))
    shop.makepyfile(shop="import sys; sys.exit('no')", test_it="def test_it(resilience_service, resilience): pass")
    result = shop.runpytest_subprocess("-vv", "--setup-show", "--showlocals")
    result.assert_outcomes(errors=1)
    result.stdout.no_fnmatch_line("*hunter2*")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ('Service("python -m shop")', "is a list such as"),
        ("Service([])", "is a list such as"),
        ('Service(["x"], ready="readyz")', "is a path such as"),
        ('Service(["x"], within=0)', "seconds above 0"),
        ('Service(["x"], env={"PORT": 1})', "takes strings; these are not: PORT"),
    ],
)
def test_an_invalid_service_is_an_error_at_once(call: str, message: str) -> None:
    from pytest_resilience import Service, SetupError

    with pytest.raises(SetupError, match=message):
        eval(call, {"Service": Service})  # the table above


def test_a_module_with_another_service_gets_its_own_process(shop: pytest.Pytester) -> None:
    theirs = """
        import psutil, pytest
        from pytest_resilience import Service

        def test_theirs(resilience):
            assert resilience.service.get("/memory").status_code == 200
            with open("pid", "w") as file:
                file.write(str(resilience.service.process.pid))
        """
    ours = """
        import psutil, pytest, sys
        from pytest_resilience import Service

        @pytest.fixture(scope="session")
        def resilience_service(resilience_stack):
            return Service([sys.executable, "shop.py"], ready="/",
                           env={"DATABASE_URL": resilience_stack.postgres.url, "REDIS_URL": resilience_stack.redis.url})

        def test_ours(resilience):
            assert resilience.service.get("/memory").status_code == 200
            with open("pid") as file:
                assert not psutil.pid_exists(int(file.read())), "the first module's service still works on our servers"
        """
    shop.makepyfile(test_1=theirs, test_2=ours)
    shop.runpytest_subprocess().assert_outcomes(passed=2)


def test_descriptors_and_cpu_time_of_the_service_can_be_exhausted(shop: pytest.Pytester) -> None:
    shop.makepyfile(
        """
        import os, httpx, psutil, pytest, sys, time
        from pytest_resilience import SetupError, eventually
        pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are Linux'")

        def test_descriptors(resilience):
            before = resilience.service.process.rlimit(psutil.RLIMIT_NOFILE)
            assert resilience.service.get("/orders").status_code == 200
            with resilience.service.exhaust_descriptors():
                reply = resilience.service.get("/orders")  # by a connection that is open; it opens one of its own
                assert (reply.status_code, reply.text) == (503, "OSError")
            assert resilience.service.process.rlimit(psutil.RLIMIT_NOFILE) == before
            assert resilience.service.get("/orders").status_code == 200

        def test_processor(resilience):
            process = resilience.service.process
            before = process.cpu_affinity()
            with resilience.service.starve_cpu(share=0.1) as strike:
                assert len(process.cpu_affinity()) == 1
                rivals = [p for p in psutil.process_iter(["cmdline"]) if "sched_setaffinity" in " ".join(p.info["cmdline"] or ())]
                assert len(rivals) == 9
                eventually(lambda: all(r.cpu_affinity() == process.cpu_affinity() for r in rivals), within=10)
                assert resilience.service.get("/memory").status_code == 200
            assert process.cpu_affinity() == before
            assert not any(r.is_running() for r in rivals)
            assert strike.receipt.touched in (0, 1)

        def test_settings(resilience):
            with pytest.raises(SetupError, match="0.02 to 0.5"):
                resilience.service.starve_cpu(share=2)
            with pytest.raises(SetupError, match="at least 0 descriptors"):
                resilience.service.exhaust_descriptors(-1)
        """
    )
    outcomes = shop.runpytest_subprocess().parseoutcomes()
    assert outcomes.pop("passed") + outcomes.pop("vacuous", 0) == 3
    assert not outcomes


def test_a_process_named_by_its_id_can_be_struck(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import os, psutil, pytest, subprocess, sys
        from pytest_resilience import SetupError, eventually

        @pytest.fixture
        def child():
            with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
                yield child
                child.kill()

        def test_pause_then_kill(resilience, child):
            process = resilience.process(child.pid)
            with process.pause() as strike:
                eventually(lambda: process.process.status() == psutil.STATUS_STOPPED, within=2)
            eventually(lambda: process.process.status() != psutil.STATUS_STOPPED, within=2)
            process.kill()
            assert child.wait(2) == -9
            assert [s.label for s in resilience.strikes] == ["process.pause", "process.kill"]
            assert strike.receipt.touched == 1
            with pytest.raises(SetupError, match="not running"):
                process.pause()

        def test_terminate(resilience, child):
            resilience.process(child.pid).terminate()
            assert child.wait(2) == -15

        @pytest.mark.parametrize("pid", [1, os.getpid(), os.getppid(), 2**22 + 1, True, "7"])
        def test_not_these(resilience, pid):
            with pytest.raises(SetupError, match="no such process|cannot strike process|an integer of at least 1"):
                resilience.process(pid)
        """
    )
    project.runpytest_subprocess("--resilience-strict").assert_outcomes(passed=8)


def test_the_kernel_kills_a_process_over_the_memory_limit_and_no_cgroup_is_left(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import glob, os, pathlib, pytest, subprocess, sys
        from pytest_resilience import SetupError

        HUNGRY = "for line in iter(input, 'end'): held = bytearray(int(line)); print(len(held), flush=True)"

        @pytest.fixture
        def child():
            with subprocess.Popen([sys.executable, "-c", HUNGRY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
                yield child
                child.kill()

        def take(child, size):
            child.stdin.write(f"{size}\\n")
            child.stdin.flush()
            return child.stdout.readline()

        def groups():
            own = f"pytest-resilience-{os.getpid()}-*"
            return [pathlib.Path(p) for root in ("memory", ".") for p in glob.glob(f"/sys/fs/cgroup/{root}/**/{own}", recursive=True)]

        def test_killed(resilience, child):
            assert take(child, 100_000) == "100000\\n"
            with resilience.process(child.pid).memory_limit(8) as strike:
                assert groups()
                assert take(child, 1_000_000) == "1000000\\n"
                assert take(child, 100_000_000) == ""
                assert child.wait(5) == -9
            assert strike.receipt.touched == 1
            assert not groups()

        def test_healed(resilience, child):
            with resilience.process(child.pid).memory_limit(8) as strike:
                assert take(child, 1_000_000) == "1000000\\n"
            assert strike.receipt.touched == 0, "it took an eighth"
            assert take(child, 100_000_000) == "100000000\\n"
            assert not groups()

        def test_groups_of_its_own(resilience, child):
            with resilience.process(child.pid).memory_limit(8):
                for group in set(groups()):
                    (group / "inner" / "innermost").mkdir(parents=True)
                assert take(child, 100_000_000) == ""
            assert not groups()

        def test_settings(resilience, child):
            with pytest.raises(SetupError, match="at least 1 MiB"):
                resilience.process(child.pid).memory_limit(0)
        """
    )
    result = project.runpytest_subprocess()
    outcomes = result.parseoutcomes()
    if outcomes.get("skipped"):
        pytest.skip(next(line for line in result.outlines if "memory_limit" in line))
    assert outcomes == {"passed": 3, "vacuous": 1}


# name: command and options of a service that does not become ready, and its error
NEVER_READY = {
    "killed": (
        "[sys.executable, '-c', 'import os; os.kill(os.getpid(), 9)']",
        ["*the service ended with exit code -9 (SIGKILL) after *s, before it was ready"],
    ),
    "killed_in_a_shell": (
        "['sh', '-c', 'exit 137']",
        ["*the service ended with exit code 137 (SIGKILL, from a shell) after *"],
    ),
    "elsewhere": (
        "['sh', '-c', f'{sys.executable} -m http.server --bind 127.0.0.1 {FREE} & wait'], within=3",
        [
            "*the service did not answer within 3 s; it is still running",
            "*GET / on port *: ConnectionRefusedError",
            "*it listens on 127.0.0.1:*, not on *, the value of PORT; Service(port_variable=...) names the variable*",
        ],
    ),
    "another_path": (
        "['sh', '-c', f'exec {sys.executable} -m http.server --bind 127.0.0.1 $PORT'], ready='/readyz', within=3",
        ["*GET /readyz on port * answered 404 *; does the service have the path of Service(ready=...)[?]"],
    ),
    "silent": (
        "[sys.executable, '-c', SILENT], within=3",
        ["*GET / on port *: TimeoutError, although it listens on that port"],
    ),
    "not_on_path": ("['no-such-shop']", ["*the service could not be started: 'no-such-shop' is not on PATH (*"]),
    "no_file": (
        "['/bin/nosuchprogram', '--password=hunter2']",
        [
            "*the service could not be started: there is no file '/bin/nosuchprogram'",
            "*command: /bin/nosuchprogram --password=[*][*][*]",
        ],
    ),
    "no_directory": (
        "[sys.executable], cwd='/no/such'",
        ["*the service could not be started: its working directory '/no/such' does not exist"],
    ),
}
SERVICES = """
import socket, sys, pytest
from pytest_resilience import Service

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    FREE = free.getsockname()[1]
SILENT = '''
import os, socket
with socket.create_server(("127.0.0.1", int(os.environ["PORT"]))) as server:
    held = []
    while True:
        held.append(server.accept())
'''

@pytest.fixture(scope="session")
def resilience_service():
    return Service({service})

def test_first(resilience): pass
def test_second(resilience): pass
"""


def test_a_service_that_is_never_ready_is_described_once_and_then_fails_at_once(project: pytest.Pytester) -> None:
    modules = {f"test_{name}": SERVICES.replace("{service}", service) for name, (service, _) in NEVER_READY.items()}
    project.makepyfile(**modules)
    result = project.runpytest_subprocess(*(f"{name}.py" for name in modules))
    result.assert_outcomes(errors=2 * len(NEVER_READY))
    sections = result.stdout.str().partition("short test summary")[0].split("ERROR at setup of test_first")[1:]
    for section, (_, message) in zip(sections, NEVER_READY.values(), strict=True):
        first, second = section.split("ERROR at setup of test_second")
        pytest.LineMatcher(first.splitlines()).fnmatch_lines(
            [">*def test_first(resilience): pass", *(f"E {each}" for each in message)]
        )
        (again,) = [line for line in second.splitlines() if line.startswith("E ")]
        assert ": not started again, because an earlier start failed: the service " in again
    result.stdout.no_fnmatch_line("*pytest_resilience/*")
    result.stdout.no_fnmatch_line("*hunter2*")


def test_a_service_that_was_ready_has_a_second_chance(project: pytest.Pytester) -> None:
    project.makepyfile(
        counting="""
        import os, pathlib, sys, http.server

        starts = pathlib.Path("starts")
        starts.write_text(starts.read_text() + "x" if starts.exists() else "x")
        if len(starts.read_text()) > 2:
            sys.exit("not again")
        address = ("127.0.0.1", int(os.environ["PORT"]))
        http.server.ThreadingHTTPServer(address, http.server.SimpleHTTPRequestHandler).serve_forever()
        """,
        test_it="""
        import sys, pytest
        from pytest_resilience import Service

        @pytest.fixture(scope="session")
        def resilience_service():
            return Service([sys.executable, "counting.py"])

        @pytest.mark.parametrize("turn", range(5))
        def test_it(resilience, turn):
            assert resilience.service.get("/").status_code == 200
        """,
    )
    result = project.runpytest_subprocess()
    result.assert_outcomes(passed=1, errors=4)
    assert len((project.path / "starts").read_text()) == 4, "the baseline, the first test, and two that failed"
    assert result.stdout.str().count("E   pytest_resilience.errors.ServerNotReady: not started again") == 2


SLOW = """
import http.server, os, time

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/hang"):
            time.sleep(30)
        status = 200 if self.path == "/" else 503
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *arguments):
        print("asked with token=hunter2", flush=True)

http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
ASKING = """
import sys, pytest
from pytest_resilience import Service, eventually, recovers

@pytest.fixture(scope="session")
def resilience_service():
    return Service([sys.executable, "slow.py"])

def test_hanging(resilience):
    assert resilience.service.get("/state").status_code == 503
    with resilience.redis.latency(0.1):
        resilience.service.get("/hang?token=" + "hunter" + "2", timeout=0.3)

def test_by_the_client(resilience):
    resilience.service.client.get("/hang", timeout=0.3)

def test_gone(resilience):
    with resilience.service.kill():
        resilience.service.get("/")

def test_eventually(resilience):
    eventually(lambda: resilience.service.get("/state?token=abc&x=1").status_code == 200, within=0.3)

def test_recovers(resilience):
    def answers():
        resilience.service.get("/")
        return resilience.service.get("/hang", timeout=0.1).status_code == 200
    recovers(answers, within=0.3)

def test_without(resilience):
    resilience.service.get("/")
    eventually(lambda: False, within=0.1)
"""


def test_a_failed_request_shows_the_active_strikes_and_no_frames_of_the_client(project: pytest.Pytester) -> None:
    project.makepyfile(slow=SLOW, test_it=ASKING)
    result = project.runpytest_subprocess("-k", "hanging or client or gone")
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        [
            '>*resilience.service.get("/hang?token=*timeout=0.3)',
            "E *httpx.ReadTimeout: timed out",
            "E *GET /hang?token=[*][*][*]: ReadTimeout in 0.*s",
            "E *its timeout= was 0.3 s",
            "E *active strikes: redis.latency(seconds=0.1)",
            '>*resilience.service.client.get("/hang", timeout=0.3)',
            "E *httpx.ReadTimeout: timed out",
            "E *active strikes: nothing",
            '>*resilience.service.get("/")',
            "E *httpx.ConnectError: *refused",
            "E *active strikes: service.kill",
            "E *the process of the service has exited with exit code -9 (SIGKILL); the end of its log:",
        ]
    )
    frames = ("httpcore", "site-packages", "pytest_resilience/")
    assert [line for line in result.outlines if any(frame in line for frame in frames)] == []
    logs = "".join(file.read_text() for file in (project.path / ".resilience" / "logs").iterdir())
    assert "token=***" in logs
    assert "hunter2" not in logs + result.stdout.str()
    full = project.runpytest_subprocess("-k", "client", "--full-trace")
    assert "httpcore" in full.stdout.str()


def test_a_failed_probe_shows_the_last_exchanges_and_no_frames_of_the_plugin(project: pytest.Pytester) -> None:
    project.makepyfile(slow=SLOW, test_it=ASKING)
    result = project.runpytest_subprocess("-k", "eventually or recovers or without")
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        [
            "E *NeverHappened: *was not true within 0.3 s",
            "E *last answer: False",
            "E *last exchanges of the service's client:",
            "E *GET /state?token=[*][*][*]&x=1: 503 in 0.* s*",
            "E *no fault has struck in this test",
            "E *NeverHappened: answers() was not steadily true within 0.3 s",
            "E *last answer: raised ReadTimeout: *",
            "E *GET /: 200 in 0.* s",
            "E *GET /hang: ReadTimeout in 0.* s",
            "E *NeverHappened: * was not true within 0.1 s",
        ]
    )
    frames = ("httpcore", "site-packages", "pytest_resilience/")
    assert [line for line in result.outlines if any(frame in line for frame in frames)] == []
    message = [line for line in result.outlines if line.startswith("E ") and "last exchanges of" in line]
    assert len(message) == 2, "of the probe's own time only"


def test_a_command_is_always_shown_without_secrets(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import sys, pytest
        from pytest_resilience import Service

        SECRET = "hunter" + "2"
        END = f"import sys; print('postgresql://ann:{SECRET}@h/db', 'api_key: {SECRET}'); sys.exit(3)"

        @pytest.fixture(scope="session")
        def resilience_service():
            return Service(
                [sys.executable, "-c", END, f"--password={SECRET}", "--token", SECRET, f"TOKEN={SECRET}",
                 f"redis://:{SECRET}@h", f"sk_live_{SECRET}", f"sh -c 'run --api-key {SECRET}'"],
                env={"STRIPE": f"sk_live_{SECRET}"},
            )

        def test_it(resilience_service, resilience): pass
        """
    )
    result = project.runpytest_subprocess("--showlocals", "--setup-show", "-vv", "--junitxml=junit.xml")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "E *ended with exit code 3 *",
            "E *command: *--password=[*][*][*] --token [*][*][*] TOKEN=[*][*][*] redis://:[*][*][*]@h $STRIPE *",
            "E *postgresql://ann:[*][*][*]@h/db api_key: [*][*][*]",
        ]
    )
    output = result.stdout.str() + result.stderr.str() + (project.path / "junit.xml").read_text()
    assert "hunter2" not in output
