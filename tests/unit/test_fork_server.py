"""The fork server: its programs differ from those of a plain start in nothing that they can see, and in what they have imported."""

import json
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from pytest_resilience.backends.session.fork_servers import ForkServers
from pytest_resilience.processes import CannotStart, SupervisorClient
from tests.support.waiting import gone, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: subreaper")

ENV = {name: os.environ[name] for name in ("PATH", "PYTHONDONTWRITEBYTECODE") if name in os.environ}
# Prints what a program sees of its start.
PROGRAM = """
import json, os, signal, stat, sys
umask = os.umask(0)
def is_of_libffi(number):  # ctypes, which the fork server uses, keeps the file of a recent libffi open
    return "libffi" in os.readlink(f"/proc/self/fd/{number}")
print(json.dumps({
    "argv": [os.path.basename(word) for word in sys.argv], "command": sys.orig_argv, "name": __name__,
    "file": globals().get("__file__"), "package": globals().get("__package__"), "path": sys.path, "flags": repr(sys.flags),
    "main": sys.modules["__main__"].__name__, "cwd": os.getcwd(),
    "environ": {n: v for n, v in os.environ.items() if n != "PYTEST_RESILIENCE_CHILD"},
    "marked": "PYTEST_RESILIENCE_CHILD" in os.environ, "umask": umask, "leader": os.getsid(0) == os.getpid(),
    "signals": [str(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD)],
    "stdin": sys.stdin.read(), "null": stat.S_ISCHR(os.fstat(0).st_mode),
    "descriptors": [n for n in sorted(int(n) for n in os.listdir("/proc/self/fd"))[:-1] if not is_of_libffi(n)],
}), flush=True)
"""


@pytest.fixture(scope="module")
def supervisor():
    with SupervisorClient() as started:
        yield started


@pytest.fixture
def project(tmp_path):
    (tmp_path / "shop.py").write_text(PROGRAM)
    (tmp_path / "parts.py").write_text("import decimal")
    return tmp_path


@pytest.fixture
def start(supervisor, project):
    """Return a function that starts a Python program with preloaded modules."""
    servers = ForkServers(supervisor, project)
    started = []

    def start(*arguments, preload=("parts",), env=ENV):
        argv = [sys.executable, *arguments]
        started.append(servers.spawn("shop", argv, preload, env=env, log=project / f"log-{len(started)}", cwd=project))
        return started[-1]

    yield start
    for each in started:
        each.kill()


def output(child):
    assert child.wait(20) == 0, child.log_text()
    return child.log_text()


@pytest.mark.parametrize(
    "arguments",
    [("-m", "shop", "--port", "80"), ("shop.py", "a"), ("-c", PROGRAM, "b"), ("-I", "-X", "utf8", "-c", PROGRAM)],
    ids=["module", "script", "code", "isolated"],
)
def test_a_forked_program_sees_what_a_started_one_sees(start, supervisor, project, arguments):
    env = {**ENV, "SHOP": "1"}
    argv = [sys.executable, *arguments]
    plain = supervisor.spawn("shop", argv, env=env, log=project / "plain", cwd=project)
    expected, seen = json.loads(output(plain)), json.loads(output(start(*arguments, preload=["decimal"], env=env)))
    assert seen == expected


def test_a_program_has_the_preloaded_modules(start):
    code = "import sys; print('decimal' in sys.modules, 'parts' in sys.modules, 'fork_server' in sys.modules)"
    assert output(start("-c", code)) == "True True False\n"


def test_collections_of_a_program_leave_the_preloaded_modules_alone(start):
    code = """if True:
        import gc, parts
        class Node: pass
        node = Node(); node.self = node; del node
        print(gc.isenabled(), any(each is vars(parts) for each in gc.get_objects()), gc.collect() > 0)
    """
    assert output(start("-c", code)) == "True False True\n"


def test_each_start_is_a_fork_of_one_server(start, project):
    (project / "parts.py").write_text("import os; open('imports', 'a').write('once '); pid = os.getpid()")
    code = "import os, parts; print(parts.pid, os.getpid())"
    seen = [output(start("-c", code)).split() for _ in range(3)]
    assert len({server for server, _ in seen}) == 1
    assert len({pid for _, pid in seen}) == 3
    assert (project / "imports").read_text() == "once "


@pytest.mark.parametrize(
    ("code", "exit_code", "text"),
    [
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('no port')", 1, "no port"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM, ""),
        ("import atexit; atexit.register(print, 'the end')", 0, "the end"),
        ("import threading; threading.Timer(0.05, print, ['from a thread']).start()", 0, "from a thread"),
    ],
)
def test_a_program_ends_as_it_would_after_a_plain_start(start, code, exit_code, text):
    child = start("-c", code)
    assert child.wait(20) == exit_code, child.log_text()
    assert text in child.log_text()


def test_a_program_is_a_child_of_the_supervisor(start, supervisor):
    child = start("-c", "import time; print('runs', flush=True); time.sleep(600)")
    until(lambda: "runs" in child.log_text())
    assert psutil.Process(child.pid).ppid() == supervisor.pid
    assert child.processes() == [child.pid]


def test_a_kill_reaches_descendants_that_outlived_the_program(start):
    """They have the environment of the fork server in /proc, unless the mark in it is overwritten."""
    first = start("-c", "import os, time; print('first', flush=True); time.sleep(600)")
    code = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(600)
"""
    second = start("-c", code)
    until(lambda: second.log_text().strip().isdigit() and not second.running)
    orphan = psutil.Process(int(second.log_text()))
    until(lambda: second.processes() == [orphan.pid])
    second.kill()
    assert gone(orphan.pid)
    assert first.running


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import no_such_module", "'parts' can't be imported: ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise SystemExit(2)", "'parts' can't be imported: SystemExit: 2"),
        ("import os; os._exit(4)", "the process has exited while it imported modules"),
        (
            "import threading; threading.Thread(target=threading.Event().wait, name='poller', daemon=True).start()",
            "'parts' has started the thread 'poller', which a fork does not have",
        ),
        (
            "import socket; s = socket.create_server(('127.0.0.1', 0))",
            "'parts' has opened a tcp socket of port [0-9]+, which all forks would share",
        ),
        ("import socket; pair = socket.socketpair()", "'parts' has opened a Unix socket, a Unix socket, which all"),
    ],
    ids=["import", "exit", "hard exit", "thread", "listener", "socket pair"],
)
def test_a_module_that_a_fork_can_not_use_is_an_error_that_names_it(start, project, code, message):
    (project / "parts.py").write_text(code)
    with pytest.raises(CannotStart, match=f"preloading modules failed: {message}"):
        start("-m", "shop")


@pytest.mark.parametrize(
    "code",
    [
        "url = os.environ['SHOP_URL']",
        "url = os.environ.get('SHOP_URL')",
        "url = os.getenv('SHOP_URL')",
        "url = 'SHOP_URL' in os.environ",
        "settings = dict(os.environ)",
        "settings = {k.lower(): v for k, v in os.environ.items()}",
    ],
)
def test_a_module_that_has_read_another_value_from_the_environment_is_an_error(start, project, monkeypatch, code):
    """Settings that are read during an import would be those of the test run in each start."""
    monkeypatch.setenv("SHOP_URL", "of the test run")
    (project / "parts.py").write_text(f"import os; {code}")
    with pytest.raises(
        CannotStart, match=r"'parts' reads .*SHOP_URL.* from the environment while it is imported"
    ) as error:
        start("-m", "shop", env={**os.environ, "SHOP_URL": "s3cret of the service"})
    assert "s3cret" not in str(error.value)
    assert "of the test run" not in str(error.value)


def test_a_module_may_read_what_is_equal_for_the_test_run_and_the_service(start, project, monkeypatch):
    monkeypatch.setenv("SHOP_NAME", "one")
    (project / "parts.py").write_text("import os; name = os.environ['SHOP_NAME']; other = os.environ.get('SHOP_OTHER')")
    assert output(start("-c", "import parts; print(parts.name)", env={**ENV, "SHOP_NAME": "one"})) == "one\n"


def test_changes_of_the_environment_by_a_module_are_kept(start, project, monkeypatch):
    monkeypatch.setenv("SHOP_OLD", "1")
    (project / "parts.py").write_text(
        "import os; os.environ.setdefault('SHOP_MODULE', 'shop.settings'); os.environ.pop('SHOP_OLD', None)"
    )
    code = "import os; print(os.environ['SHOP_MODULE'], 'SHOP_OLD' in os.environ, os.environb[b'SHOP_MODULE'], os.getenv('SHOP'))"
    seen = output(start("-c", code, env={**ENV, "SHOP_OLD": "1", "SHOP": "2"}))
    assert seen == "shop.settings False b'shop.settings' 2\n"


def test_variables_of_the_interpreter_hold_in_the_program(start):
    code = "import os, sys; print(sys.flags.dev_mode, os.environ['PYTHONDEVMODE'])"
    assert output(start("-c", code, env={**ENV, "PYTHONDEVMODE": "1"})) == "True 1\n"
    assert output(start("-c", "import sys; print(sys.flags.dev_mode)")) == "False\n"


def test_a_killed_fork_server_is_replaced(start, project):
    (project / "parts.py").write_text("import os; pid = os.getpid()")
    code = "import parts; print(parts.pid)"
    first = int(output(start("-c", code)))
    server = psutil.Process(first)
    server.kill()
    until(lambda: gone(first))
    assert int(output(start("-c", code))) != first


def test_programs_and_fork_servers_end_with_the_supervisor(project):
    with SupervisorClient() as client:
        servers = ForkServers(client, project)
        code = "import os, parts, time; print(parts.pid, os.getpid(), flush=True); time.sleep(600)"
        (project / "parts.py").write_text("import os; pid = os.getpid()")
        argv = [sys.executable, "-c", code]
        child = servers.spawn("shop", argv, ["parts"], env=ENV, log=project / "log", cwd=project)
        until(lambda: child.log_text().endswith("\n"))
        found = [int(pid) for pid in child.log_text().split()]
        os.kill(client.pid, signal.SIGKILL)
        until(lambda: all(map(gone, found)))


def test_a_missing_interpreter_is_named(supervisor, project):
    servers = ForkServers(supervisor, project)
    with pytest.raises(CannotStart, match="there is no file '/no/python3'"):
        servers.spawn("shop", ["/no/python3", "-m", "shop"], ["parts"], env=ENV, log=project / "log", cwd=Path(project))
