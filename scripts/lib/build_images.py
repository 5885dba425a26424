"""Makes stand-ins for the images of the docker backend out of what this machine has: `build_images.py [--force]`.

A program and the libraries that it asks for, a shell and a few tools, and an entry point that understands the variables of the
official images are packed as `docker save` would do it and given to `docker load`. No registry, no base image, no apt.

The stand-in for postgres:17 holds the Postgres that the embedded backend uses, whatever its version; the label says which.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_resilience.backends.embedded.binaries import find_postgres, find_redis
from pytest_resilience.backends.session.versions import version_of
from pytest_resilience.backends.settings import POSTGRES_IMAGE, REDIS_IMAGE, TOXIPROXY_IMAGE

TOXIPROXY = "github.com/Shopify/toxiproxy/v2/cmd/server@v2.12.0"
LABEL = "pytest-resilience.stand-in"
TOOLS = "cat chmod chown env id ls mkdir rm sleep setpriv"
EPOCH = 1_700_000_000  # one time for all files, so that the same contents are the same image
PASSWD = """\
root:x:0:0:root:/root:/bin/sh
postgres:x:999:999::/var/lib/postgresql:/bin/sh
redis:x:998:998::/data:/bin/sh
"""
GROUP = "root:x:0:\npostgres:x:999:\nredis:x:998:\n"

POSTGRES_ENTRY = r"""#!/bin/sh
# As the official image does it, as far as anybody here needs it: POSTGRES_USER, _PASSWORD, _DB, _INITDB_ARGS, _HOST_AUTH_METHOD.
set -e
: "${POSTGRES_USER:=postgres}" "${PGDATA:=/var/lib/postgresql/data}"
: "${POSTGRES_DB:=$POSTGRES_USER}"
as="setpriv --reuid=postgres --regid=postgres --clear-groups"
case "${1:-}" in -*) set -- postgres "$@" ;; esac
[ "${1:-postgres}" = postgres ] || exec "$@"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    if [ -z "$POSTGRES_PASSWORD" ] && [ "$POSTGRES_HOST_AUTH_METHOD" != trust ]; then
        echo "Error: Database is uninitialized and superuser password is not specified." >&2
        exit 1
    fi
    mkdir -p "$PGDATA"
    chown postgres:postgres "$PGDATA"
    chmod 700 "$PGDATA"
    (umask 077 && printf '%s\n' "$POSTGRES_PASSWORD" >/tmp/password)
    chown postgres /tmp/password
    # shellcheck disable=SC2086  # several words each, as in the official image
    $as initdb -D "$PGDATA" -U "$POSTGRES_USER" --auth-local=trust --auth-host=scram-sha-256 --pwfile=/tmp/password \
        $POSTGRES_INITDB_ARGS >/tmp/initdb.log 2>&1 || { cat /tmp/initdb.log >&2; exit 1; }
    rm /tmp/password
    printf 'host all all all %s\n' "${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}" >>"$PGDATA/pg_hba.conf"
    if [ "$POSTGRES_DB" != postgres ]; then
        printf 'CREATE DATABASE "%s";\n' "$POSTGRES_DB" | $as postgres --single -D "$PGDATA" postgres >/dev/null
    fi
fi
[ $# = 0 ] || shift
exec $as postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/tmp "$@"
"""


class Tree:
    """The files of an image: name inside, without the slash in front, to a file here or to a text.

    Args:
        work: a directory for what is only made for it.
    """

    def __init__(self, work: Path) -> None:
        self.work = work
        self.files: dict[str, Path | str] = {}
        self.directories: dict[str, tuple[int, int]] = {"tmp": (0o1777, 0)}  # mode, owner
        for name in "proc", "sys", "dev", "run", "root":
            self.directories[name] = (0o755, 0)
        self.files["etc/passwd"] = PASSWD
        self.files["etc/group"] = GROUP

    def program(self, source: Path, name: str) -> None:
        """A program, and the libraries that it asks for, at the places where it looks for them."""
        self.files[name] = source.resolve()
        for library in libraries(source):
            self.files.setdefault(library.lstrip("/"), Path(library).resolve())

    def tools(self) -> None:
        """A shell and what an entry point calls."""
        shell = shutil.which("dash") or shutil.which("sh")
        assert shell, "every Linux has a shell"
        self.program(Path(shell), "bin/sh")
        for tool in TOOLS.split():
            path = shutil.which(tool)
            if path is None:
                raise Impossible(f"{tool} is not here; it comes with coreutils and util-linux")
            self.program(Path(path), f"bin/{tool}")

    def folder(self, source: Path, name: str, *, leave_out: tuple[str, ...] = ()) -> None:
        """A directory with everything in it, libraries of its programs included."""
        programs: list[Path] = []
        for place, directories, files in os.walk(source):
            directories[:] = [directory for directory in directories if directory not in leave_out]
            for file in files:
                path = Path(place) / file
                self.files[f"{name}/{path.relative_to(source)}"] = path.resolve()
                if os.access(path, os.X_OK) or ".so" in file:
                    programs.append(path)
        for library in libraries(*programs):
            if not library.startswith(f"{source.parent}/"):
                self.files.setdefault(library.lstrip("/"), Path(library).resolve())

    def layer(self, target: Path) -> None:
        """Write the tar of all of it."""
        with tarfile.open(target, "w") as tar:
            for name in sorted(set(self._parents()) | set(self.directories)):
                mode, owner = self.directories.get(name, (0o755, 0))
                entry = _entry(name, mode, owner)
                entry.type = tarfile.DIRTYPE
                tar.addfile(entry)
            for name, content in sorted(self.files.items()):
                data = content.encode() if isinstance(content, str) else content.read_bytes()
                mode = (0o755 if data.startswith(b"#!") else 0o644) if isinstance(content, str) else _mode(content)
                entry = _entry(name, mode, 0)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))

    def _parents(self) -> Iterator[str]:
        for name in (*self.files, *self.directories):
            yield from (str(parent) for parent in Path(name).parents if str(parent) != ".")


class Impossible(Exception):
    """Not on this machine; the message says why."""


def _mode(path: Path) -> int:
    return (path.stat().st_mode & 0o777) | 0o444


def _entry(name: str, mode: int, owner: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.mode, entry.uid, entry.gid, entry.mtime = mode, owner, owner, EPOCH
    return entry


def libraries(*programs: Path) -> list[str]:
    """What the dynamic linker would load for them; nothing for a static program or a file that is none."""
    said = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False)
    return re.findall(r"(/\S+) \(0x", said.stdout)


def postgres(tree: Tree) -> tuple[str, dict[str, Any]]:
    """Postgres, as the embedded backend would run it."""
    found = find_postgres()
    installation = found.path.parent
    tree.tools()
    if installation.name == "pginstall":  # a wheel: it finds its libraries beside its own directory
        package = installation.parent
        tree.folder(installation, "opt/postgres/package/pginstall", leave_out=("include", "pgxs", "pkgconfig", "doc"))
        beside = package.with_name(f"{package.name}.libs")
        if beside.is_dir():
            tree.folder(beside, f"opt/postgres/{beside.name}")
            for name in [name for name in tree.files if name.startswith(f"{str(package.parent).lstrip('/')}/")]:
                del tree.files[name]  # what ldd saw where the wheel is installed here
        programs = "/opt/postgres/package/pginstall/bin"
    else:  # Debian: programs and libraries in /usr/lib/postgresql/N, the rest in /usr/share/postgresql/N
        tree.folder(installation, str(installation).lstrip("/"), leave_out=("bitcode", "pgxs"))
        share = Path("/usr/share/postgresql") / installation.name
        tree.folder(share, str(share).lstrip("/"), leave_out=("man", "locale"))
        tree.folder(Path("/usr/share/zoneinfo"), "usr/share/zoneinfo", leave_out=("right", "posix"))
        programs = str(found.path)
    tree.files["usr/local/bin/docker-entrypoint.sh"] = POSTGRES_ENTRY
    tree.directories["var/lib/postgresql"] = (0o755, 999)
    return f"Postgres {version_of(found.path / 'postgres')} ({found.source})", {
        "Entrypoint": ["docker-entrypoint.sh"],
        "Cmd": ["postgres"],
        "Env": [f"PATH={programs}:/usr/local/bin:/usr/bin:/bin", "LC_ALL=C"],
        "ExposedPorts": {"5432/tcp": {}},
        "StopSignal": "SIGINT",
    }


def redis(tree: Tree) -> tuple[str, dict[str, Any]]:
    """Redis or Valkey, as the embedded backend would run it."""
    found = find_redis()
    tree.tools()
    tree.program(found.path, "usr/local/bin/redis-server")
    tree.directories["data"] = (0o755, 998)
    return f"{found.path.name} {version_of(found.path)} ({found.source})", {
        "Cmd": ["redis-server", "--protected-mode", "no", "--save", ""],
        "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"],
        "ExposedPorts": {"6379/tcp": {}},
        "User": "redis",
        "WorkingDir": "/data",
    }


def toxiproxy(tree: Tree) -> tuple[str, dict[str, Any]]:
    """The real Toxiproxy, built from its source as its own image is."""
    go = shutil.which("go")
    if go is None:
        raise Impossible("there is no Go here to build Toxiproxy with")
    environment = {**os.environ, "GOBIN": str(tree.work), "CGO_ENABLED": "0", "GOFLAGS": ""}
    print(f"+ CGO_ENABLED=0 go install {TOXIPROXY}", flush=True)
    if subprocess.run([go, "install", TOXIPROXY], env=environment, check=False).returncode:
        raise Impossible(f"go install {TOXIPROXY} failed")
    tree.files["toxiproxy"] = tree.work / "server"
    return TOXIPROXY, {
        "Entrypoint": ["/toxiproxy"],
        "Cmd": ["-host=0.0.0.0"],
        "Env": ["LOG_LEVEL=info"],
        "ExposedPorts": {"8474/tcp": {}},
    }


IMAGES = {POSTGRES_IMAGE: postgres, REDIS_IMAGE: redis, TOXIPROXY_IMAGE: toxiproxy}


def load(name: str, tree: Tree, contents: str, settings: Mapping[str, Any]) -> None:
    """Hand an image to the engine."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    work = tree.work
    layer = work / "layer.tar"
    tree.layer(layer)
    with layer.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    config = {
        "architecture": machine,
        "os": "linux",
        "created": "2023-11-14T22:13:20Z",
        "config": {**settings, "Labels": {LABEL: contents}},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{checksum}"]},
        "history": [{"created": "2023-11-14T22:13:20Z", "created_by": "pytest-resilience scripts/images"}],
    }
    text = json.dumps(config, sort_keys=True).encode()
    config_name = f"{hashlib.sha256(text).hexdigest()}.json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    archive = work / "image.tar"
    with tarfile.open(archive, "w") as tar:
        for file_name, data in (config_name, text), ("manifest.json", manifest):
            entry = _entry(file_name, 0o644, 0)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        tar.add(layer, "layer.tar")
    with archive.open("rb") as file:
        loaded = subprocess.run(["docker", "load", "--quiet"], stdin=file, capture_output=True, text=True, check=False)
    if loaded.returncode:
        raise Impossible(f"docker load: {loaded.stderr.strip() or loaded.stdout.strip()}")


def there(name: str) -> bool:
    """Whether the engine has an image of that name."""
    return subprocess.run(["docker", "image", "inspect", name], capture_output=True, check=False).returncode == 0


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/images", description="Local stand-ins for the docker backend's images."
    )
    parser.add_argument("--force", action="store_true", help="make them anew, also where there is one")
    given = parser.parse_args(arguments)
    try:
        if sys.platform != "linux":
            raise Impossible("only Linux programs run in containers: pull the images, or run this on Linux")
        engine = subprocess.run(["docker", "version"], capture_output=True, text=True, check=False)
        if engine.returncode:
            raise Impossible(f"no Docker engine answers: {engine.stderr.strip()}")
        for name, recipe in IMAGES.items():
            if there(name) and not given.force:
                print(f"{name}: is there")
                continue
            with tempfile.TemporaryDirectory(prefix="resilience-image-") as work:
                tree = Tree(Path(work))
                contents, settings = recipe(tree)
                load(name, tree, contents, settings)
            print(f"{name}: {contents}", flush=True)
    except FileNotFoundError as error:
        print(f"scripts/images: {error.filename} is not installed", file=sys.stderr)
        return 1
    except Impossible as error:
        print(f"scripts/images: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
