"""Services of several processes for test projects. Each serves HTTP at PORT from a process that is not its first one."""

from __future__ import annotations

# Routes: GET /pid, /allocate/MIB, /hold/MIB, /open/NUMBER, /keep/NUMBER and /spin/SECONDS. A response begins with the id of its process.
SERVE = '''
import http.server, os, signal, socketserver, sys, time

HELD = []

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        what, _, number = self.path.strip("/").partition("/")
        status, text = 200, ""
        try:
            if what == "allocate":
                bytearray(int(float(number) * 2**20))
            elif what == "hold":
                HELD.append(bytearray(int(float(number) * 2**20)))
            elif what == "open":
                held = [open(os.devnull) for _ in range(int(number))]
                for file in held:
                    file.close()
            elif what == "keep":
                HELD.extend([open(os.devnull) for _ in range(int(number))])
            elif what == "spin":
                end = time.monotonic() + float(number)
                while time.monotonic() < end:
                    pass
        except (MemoryError, OSError) as error:
            status, text = 503, type(error).__name__
            if QUIET not in sys.argv:
                print("failed:", repr(error), flush=True)
        body = f"{os.getpid()} {text}".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass

QUIET = "quiet"
ADDRESS = ("127.0.0.1", int(os.environ["PORT"]))

class Server(http.server.HTTPServer):
    request_queue_size = 50

def work(server):
    """Serve requests, blocked in accept() between them, so an idle process uses no CPU at all."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while True:
        try:
            server.handle_request()
        except OSError:
            continue

def prefork():
    """Run two workers, and replace each that ends."""
    server = Server(ADDRESS, Handler)
    workers = set()
    while True:
        while len(workers) < 2:
            pid = os.fork()
            if pid == 0:
                work(server)
            workers.add(pid)
        workers.discard(os.wait()[0])

def fork_per_request():
    class Forking(socketserver.ForkingMixIn, Server):
        pass
    work(Forking(ADDRESS, Handler))

def daemon():
    """Serve from a daemon, which has forked twice and has a session of its own."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            work(Server(ADDRESS, Handler))
        os._exit(0)
    os.wait()
    signal.pause()

def ticking():
    """Serve from a process that polls ten times a second, so it is never idle."""
    Server(ADDRESS, Handler).serve_forever(0.1)

def single():
    work(Server(ADDRESS, Handler))

globals()[sys.argv[1]]()
'''

COMMANDS = {
    "prefork": "[sys.executable, 'serve.py', 'prefork']",
    "fork_per_request": "[sys.executable, 'serve.py', 'fork_per_request']",
    "daemon": "[sys.executable, 'serve.py', 'daemon']",
    "ticking": "[sys.executable, 'serve.py', 'ticking', 'quiet']",
    "shell": "['sh', '-c', f'true && {sys.executable} serve.py single; exit $?']",
}

CONFTEST = """
import os, sys
import psutil, pytest
from pytest_resilience import Service, eventually

@pytest.fixture(scope="session")
def resilience_service():
    return Service({command}, ready="/pid")

def get(resilience, path, tries=1):
    "Return the status and the text of the last response of each process."
    found = {{}}
    for _ in range(tries):
        reply = resilience.service.get(path, headers={{"Connection": "close"}})
        pid, _, text = reply.text.partition(" ")
        found[int(pid)] = reply.status_code, text
    return found

def tree(resilience):
    return [psutil.Process(pid) for pid in resilience.service._running.tree()]
"""
