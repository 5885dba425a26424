"""Build stand-ins for the images of the docker backend from the programs of this machine: `build_images.py [--force]`.

An image has a program with its shared libraries, a shell and a few tools, and an entry point that understands the variables of the
official image. No registry and no base image are needed.

The stand-in for postgres:17 has the Postgres of the embedded backend, whatever its version. A label names the version. MariaDB and
RabbitMQ are unpacked from the packages of Debian or Ubuntu, which apt downloads, so their images are left out where there is no apt.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from pytest_resilience.backends.embedded.binaries import find_postgres, find_redis
from pytest_resilience.backends.settings import POSTGRES_IMAGE, REDIS_IMAGE, TOXIPROXY_IMAGE
from pytest_resilience.systems.mysql.program import MARIADB_IMAGE, MYSQL_IMAGE
from pytest_resilience.systems.rabbitmq.program import RABBITMQ_IMAGE

TOXIPROXY = "github.com/Shopify/toxiproxy/v2/cmd/server@v2.12.0"
LABEL = "pytest-resilience.stand-in"
TOOLS = "cat chmod chown env id ls mkdir rm sleep setpriv"
SCRIPT_TOOLS = (
    "basename cp cut date df dirname expr find grep head hostname mktemp mv readlink sed sort stat tail touch tr uname"
)
PASSWD = """\
root:x:0:0:root:/root:/bin/sh
postgres:x:999:999::/var/lib/postgresql:/bin/sh
redis:x:998:998::/data:/bin/sh
mysql:x:997:997::/var/lib/mysql:/bin/sh
rabbitmq:x:996:996::/var/lib/rabbitmq:/bin/sh
"""
GROUP = "root:x:0:\npostgres:x:999:\nredis:x:998:\nmysql:x:997:\nrabbitmq:x:996:\n"

POSTGRES_ENTRY = r"""#!/bin/sh
# The part of the official entry point that the backend uses: POSTGRES_USER, _PASSWORD, _DB, _INITDB_ARGS, _HOST_AUTH_METHOD.
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


MARIADB_ENTRY = r"""#!/bin/sh
# The part of the official entry points of MySQL and MariaDB that the backend uses: MYSQL_ROOT_PASSWORD or MARIADB_ROOT_PASSWORD.
set -e
data=/var/lib/mysql
password="${MARIADB_ROOT_PASSWORD:-$MYSQL_ROOT_PASSWORD}"
as="setpriv --reuid=mysql --regid=mysql --clear-groups"
case "${1:-}" in -*) set -- mariadbd "$@" ;; esac
case "${1:-mariadbd}" in mariadbd | mysqld) ;; *) exec "$@" ;; esac
[ $# = 0 ] || shift
if [ ! -d "$data/mysql" ]; then
    if [ -z "$password" ]; then
        echo "Database is uninitialized and password option is not specified" >&2
        exit 1
    fi
    chown mysql:mysql "$data"
    $as mariadb-install-db --no-defaults --datadir="$data" --skip-test-db --auth-root-authentication-method=normal \
        --skip-name-resolve >/tmp/install.log 2>&1 || { cat /tmp/install.log >&2; exit 1; }
    printf "DELETE FROM mysql.global_priv WHERE User <> 'mariadb.sys';\nFLUSH PRIVILEGES;
CREATE USER root@'%%' IDENTIFIED BY '%s';\nGRANT ALL ON *.* TO root@'%%' WITH GRANT OPTION;\n" "$password" |
        $as mariadbd --no-defaults --datadir="$data" --bootstrap >/tmp/install.log 2>&1 ||
        { cat /tmp/install.log >&2; exit 1; }
fi
exec $as mariadbd --no-defaults --datadir="$data" --socket=/tmp/mysqld.sock "$@"
"""

RABBITMQ_ENTRY = r"""#!/bin/sh
# The part of the official entry point that the backend uses. The server reads RABBITMQ_DEFAULT_USER and RABBITMQ_DEFAULT_PASS.
set -e
[ "${1:-rabbitmq-server}" = rabbitmq-server ] || exec "$@"
export RUNNING_UNDER_SYSTEMD=true # so that the script executes erl in its place, and not as a child
exec setpriv --reuid=rabbitmq --regid=rabbitmq --clear-groups /usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server
"""


class RootFilesystem:
    """The files of an image, by their path in the image without the leading slash.

    Args:
        work: a temporary directory for files that are built for the image.
    """

    def __init__(self, work: Path) -> None:
        self.work = work
        self.files: dict[str, Path | str] = {"etc/passwd": PASSWD, "etc/group": GROUP}  # source file, or content
        self.directories: dict[str, tuple[int, int]] = {"tmp": (0o1777, 0)}  # mode, owner
        for name in "proc", "sys", "dev", "run", "root":
            self.directories[name] = (0o755, 0)

    def add_program(self, source: Path, name: str) -> None:
        """Add a program, and its shared libraries at the paths where it looks for them."""
        self.files[name] = source.resolve()
        for library in shared_libraries(source):
            self.files.setdefault(library.lstrip("/"), Path(library).resolve())

    def add_tools(self, tools: str = TOOLS) -> None:
        """Add a shell and the programs that the entry point calls."""
        shell = shutil.which("dash") or shutil.which("sh")
        assert shell, "every Linux has a shell"
        self.add_program(Path(shell), "bin/sh")
        for tool in tools.split():
            path = shutil.which(tool)
            if path is None:
                raise CannotBuild(f"{tool} is not installed; it comes with coreutils and util-linux")
            self.add_program(Path(path), f"bin/{tool}")

    def add_directory(self, source: Path, name: str, *, exclude: tuple[str, ...] = ()) -> None:
        """Add a directory with everything in it, and the shared libraries of its programs."""
        programs: list[Path] = []
        for parent, directories, files in os.walk(source):
            directories[:] = [directory for directory in directories if directory not in exclude]
            for file in files:
                path = Path(parent) / file
                self.files[f"{name}/{path.relative_to(source)}"] = path.resolve()
                if os.access(path, os.X_OK) or ".so" in file:
                    programs.append(path)
        for library in shared_libraries(*programs):
            if not library.startswith(f"{source.parent}/"):
                self.files.setdefault(library.lstrip("/"), Path(library).resolve())

    def add_packages(self, *names: str, leave_out: str) -> str:
        """Add the files of packages and of all packages that they depend on, without running their scripts.

        Args:
            names: the packages.
            leave_out: a pattern for the names of packages that the programs do not need.

        Returns:
            The version of the first package.
        """
        archives, unpacked = self.work / "archives", self.work / "unpacked"
        (archives / "partial").mkdir(parents=True)
        # With an empty status, apt takes nothing for installed.
        options = ("-o", f"Dir::Cache::archives={archives}", "-o", "Dir::State::status=/dev/null")
        command = ["apt-get", "install", "--yes", "--no-install-recommends", "--download-only", *options, *names]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CannotBuild(f"apt-get can't download {', '.join(names)}: {done.stderr.strip()[-300:]}")
        for archive in archives.glob("*.deb"):
            if not re.match(leave_out, archive.name):
                subprocess.run(["dpkg-deb", "--extract", archive, unpacked], check=True)
        self._add_unpacked(unpacked)
        version = next(archives.glob(f"{names[0]}_*")).name.split("_")[1]
        return version.replace("%3a", ":")

    def _add_unpacked(self, unpacked: Path) -> None:
        left_out = {"share/doc", "share/man", "share/locale", "share/lintian", "share/bug"}
        for parent, directories, files in os.walk(unpacked):
            here = Path(parent)
            directories[:] = [each for each in directories if f"{here.name}/{each}" not in left_out]
            for file in files:
                if source := _followed(here / file, unpacked):
                    self.files[str((here / file).relative_to(unpacked))] = source

    def write_tar(self, target: Path) -> None:
        """Write all files and directories to a tar file."""
        with tarfile.open(target, "w") as tar:
            for name in sorted(set(self._parents()) | set(self.directories)):
                mode, owner = self.directories.get(name, (0o755, 0))
                entry = _tar_entry(name, mode, owner)
                entry.type = tarfile.DIRTYPE
                tar.addfile(entry)
            for name, content in sorted(self.files.items()):
                data = content.encode() if isinstance(content, str) else content.read_bytes()
                mode = (0o755 if data.startswith(b"#!") else 0o644) if isinstance(content, str) else _mode(content)
                entry = _tar_entry(name, mode, 0)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))

    def _parents(self) -> Iterator[str]:
        for name in (*self.files, *self.directories):
            yield from (str(parent) for parent in Path(name).parents if str(parent) != ".")


class CannotBuild(Exception):
    """This machine cannot build the images. The message names the reason."""


def _followed(path: Path, root: Path) -> Path | None:
    """Return the file that a path of an unpacked package means, or None if it is a directory or missing."""
    for _ in range(10):
        if not path.is_symlink():
            return path if path.is_file() else None
        target = path.readlink()
        path = root / str(target).lstrip("/") if target.is_absolute() else path.parent / target
    return None


def _mode(path: Path) -> int:
    return (path.stat().st_mode & 0o777) | 0o444


def _tar_entry(name: str, mode: int, owner: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.mode, entry.uid, entry.gid = mode, owner, owner
    return entry


def shared_libraries(*programs: Path) -> list[str]:
    """Return the libraries that the dynamic linker loads for the programs, none for a static program."""
    listed = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False)
    return re.findall(r"(/\S+) \(0x", listed.stdout)


def add_postgres(image: RootFilesystem) -> tuple[str, Sequence[str]]:
    """Add the Postgres of the embedded backend. Return its description and the image's settings as Dockerfile lines."""
    found = find_postgres()
    installation = found.path.parent
    image.add_tools()
    if installation.name == "pginstall":  # a wheel, which finds its libraries beside its own directory
        package = installation.parent
        image.add_directory(
            installation, "opt/postgres/package/pginstall", exclude=("include", "pgxs", "pkgconfig", "doc")
        )
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            image.add_directory(libraries, f"opt/postgres/{libraries.name}")
            for name in [name for name in image.files if name.startswith(f"{str(package.parent).lstrip('/')}/")]:
                del image.files[name]  # ldd lists them where the wheel is installed on this machine
        programs = "/opt/postgres/package/pginstall/bin"
    else:  # Debian: programs and libraries in /usr/lib/postgresql/N, the rest in /usr/share/postgresql/N
        image.add_directory(installation, str(installation).lstrip("/"), exclude=("bitcode", "pgxs"))
        share = Path("/usr/share/postgresql") / installation.name
        image.add_directory(share, str(share).lstrip("/"), exclude=("man", "locale"))
        image.add_directory(Path("/usr/share/zoneinfo"), "usr/share/zoneinfo", exclude=("right", "posix"))
        programs = str(found.path)
    image.files["usr/local/bin/docker-entrypoint.sh"] = POSTGRES_ENTRY
    image.directories["var/lib/postgresql"] = (0o755, 999)
    return f"Postgres {found.version()} ({found.source})", (
        'ENTRYPOINT ["docker-entrypoint.sh"]',
        'CMD ["postgres"]',
        f"ENV PATH={programs}:/usr/local/bin:/usr/bin:/bin LC_ALL=C",
        "EXPOSE 5432",
        "STOPSIGNAL SIGINT",
    )


def add_redis(image: RootFilesystem) -> tuple[str, Sequence[str]]:
    """Add the Redis or Valkey of the embedded backend. Return its description and the image's settings as Dockerfile lines."""
    found = find_redis()
    image.add_tools()
    image.add_program(found.path, "usr/local/bin/redis-server")
    image.directories["data"] = (0o755, 998)
    return f"{found.path.name} {found.version()} ({found.source})", (
        'CMD ["redis-server", "--protected-mode", "no", "--save", ""]',
        "ENV PATH=/usr/local/bin:/usr/bin:/bin",
        "EXPOSE 6379",
        "USER redis",
        "WORKDIR /data",
    )


def add_toxiproxy(image: RootFilesystem) -> tuple[str, Sequence[str]]:
    """Build the real Toxiproxy from source and add it. Return its description and the image's settings as Dockerfile lines."""
    go = shutil.which("go")
    if go is None:
        raise CannotBuild("Go is not installed, and Toxiproxy is built with it")
    environment = {**os.environ, "GOBIN": str(image.work), "CGO_ENABLED": "0", "GOFLAGS": ""}
    print(f"+ CGO_ENABLED=0 go install {TOXIPROXY}", flush=True)
    if subprocess.run([go, "install", TOXIPROXY], env=environment, check=False).returncode:
        raise CannotBuild(f"go install {TOXIPROXY} failed")
    image.files["toxiproxy"] = image.work / "server"
    return TOXIPROXY, (
        'ENTRYPOINT ["/toxiproxy"]',
        'CMD ["-host=0.0.0.0"]',
        "ENV LOG_LEVEL=info",
        "EXPOSE 8474",
    )


def add_mariadb(image: RootFilesystem) -> tuple[str, Sequence[str]]:
    """Add MariaDB, also as a stand-in for MySQL. Return its description and the image's settings as Dockerfile lines."""
    version = image.add_packages(
        "mariadb-server-core", "mariadb-client-core", leave_out="perl|libperl|python|libpython"
    )
    image.add_tools(f"{TOOLS} {SCRIPT_TOOLS}")
    image.files["usr/local/bin/docker-entrypoint.sh"] = MARIADB_ENTRY
    image.directories["var/lib/mysql"] = (0o750, 997)
    return f"MariaDB {version} (Debian package)", (
        'ENTRYPOINT ["docker-entrypoint.sh"]',
        'CMD ["mariadbd"]',
        "ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/bin",
        "EXPOSE 3306",
    )


def add_rabbitmq(image: RootFilesystem) -> tuple[str, Sequence[str]]:
    """Add RabbitMQ with Erlang. Return its description and the image's settings as Dockerfile lines."""
    version = image.add_packages("rabbitmq-server", leave_out="perl|libperl|python|libpython|cron|dpkg|tar_|usrmerge")
    image.add_tools(f"{TOOLS} {SCRIPT_TOOLS}")
    image.files["usr/local/bin/docker-entrypoint.sh"] = RABBITMQ_ENTRY
    for name in "var/lib/rabbitmq", "var/log/rabbitmq", "etc/rabbitmq":
        image.directories[name] = (0o750, 996)
    return f"RabbitMQ {version} (Debian package)", (
        'ENTRYPOINT ["docker-entrypoint.sh"]',
        'CMD ["rabbitmq-server"]',
        "ENV PATH=/usr/local/bin:/usr/bin:/bin HOME=/var/lib/rabbitmq LC_ALL=C.UTF-8 RABBITMQ_LOGS=-",
        "EXPOSE 5672",
    )


# By the names of each image.
IMAGES = {
    (POSTGRES_IMAGE,): add_postgres,
    (REDIS_IMAGE,): add_redis,
    (TOXIPROXY_IMAGE,): add_toxiproxy,
    (MYSQL_IMAGE, MARIADB_IMAGE): add_mariadb,
    (RABBITMQ_IMAGE,): add_rabbitmq,
}
NEED_APT = (add_mariadb, add_rabbitmq)


def build(names: tuple[str, ...]) -> str:
    """Build an image in the engine, and return a description of its contents.

    `ADD` unpacks a tar with its owners and modes, and `FROM scratch` pulls nothing.
    """
    with tempfile.TemporaryDirectory(prefix="resilience-image-") as work:
        image = RootFilesystem(Path(work))
        contents, settings = IMAGES[names](image)
        context = image.work / "context"
        context.mkdir()
        image.write_tar(context / "files.tar")
        lines = ["FROM scratch", "ADD files.tar /", *settings, f'LABEL {LABEL}="{contents}"']
        (context / "Dockerfile").write_text("\n".join(lines) + "\n")
        built = docker("build", "--quiet", *(f"--tag={name}" for name in names), context)
        if built.returncode:
            raise CannotBuild(f"docker build: {built.stderr.strip() or built.stdout.strip()}")
    return contents


def build_or_leave_out(names: tuple[str, ...]) -> str:
    """Build an image from packages. Return a description of its contents, or the reason why it can't be built here."""
    if shutil.which("apt-get") is None:
        return "left out, because it is built from packages of Debian, and there is no apt-get here"
    try:
        return build(names)
    except CannotBuild as error:
        return f"left out, because {error}"


def docker(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run docker."""
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/images", description="Build local stand-ins for the images of the docker backend."
    )
    parser.add_argument("--force", action="store_true", help="build images that exist too")
    options = parser.parse_args(arguments)
    try:
        if sys.platform != "linux":
            raise CannotBuild("only Linux programs run in containers: pull the images, or run this on Linux")
        engine = docker("version")
        if engine.returncode:
            raise CannotBuild(f"no Docker engine answers: {engine.stderr.strip()}")
        for names, add in IMAGES.items():
            if docker("image", "inspect", *names).returncode == 0 and not options.force:
                outcome = "exists"
            else:
                outcome = build_or_leave_out(names) if add in NEED_APT else build(names)
            print(f"{', '.join(names)}: {outcome}", flush=True)
    except FileNotFoundError as error:
        print(f"scripts/images: {error.filename} is not installed", file=sys.stderr)
        return 1
    except CannotBuild as error:
        print(f"scripts/images: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
