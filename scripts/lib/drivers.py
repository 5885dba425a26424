"""The drivers of Postgres and Redis with which conversations are recorded and faults are tried, and how each is installed.

A program for a driver has the same name in each room of programs, such as tests/support/drivers.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

WITHIN = 600.0  # seconds for one driver

Protocol = Literal["postgres", "redis"]
Prepare = Callable[[Path, Path], list[str]]
"""Installs a driver into a directory, for its program in a room. Returns the command without the URL."""


@dataclass(frozen=True)
class Driver:
    """A driver of one of the protocols.

    Args:
        protocol: of the server that it uses.
        prepare: installs it.
        tools: programs that have to be on PATH.
    """

    protocol: Protocol
    prepare: Prepare
    tools: Sequence[str] = ()

    @property
    def missing(self) -> list[str]:
        """The tools that are not on PATH."""
        return [tool for tool in self.tools if shutil.which(tool) is None]


def python_driver(program: str, *requirements: str) -> Prepare:
    """Install requirements from PyPI into an environment."""

    def prepare(room: Path, directory: Path) -> list[str]:
        python = directory / "environment" / "bin" / "python"
        run(["uv", "venv", "--quiet", "--python", sys.executable, str(directory / "environment")])
        run(["uv", "pip", "install", "--quiet", "--python", str(python), *requirements])
        return [str(python), str(room / program)]

    return prepare


def node_driver(program: str, *packages: str) -> Prepare:
    """Install packages of npm."""

    def prepare(room: Path, directory: Path) -> list[str]:
        run(["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(directory), *packages])
        return ["env", f"NODE_PATH={directory / 'node_modules'}", "node", str(room / program)]

    return prepare


def go_driver(program: str, *modules: str) -> Prepare:
    """Build a program with Go modules, and with the files of Go beside it in the room."""

    def prepare(room: Path, directory: Path) -> list[str]:
        shutil.copytree(room / program, directory, dirs_exist_ok=True)
        for shared in room.glob("*.go"):
            shutil.copy(shared, directory)
        run(["go", "mod", "init", "program"], cwd=directory)
        run(["go", "get", *modules], cwd=directory)
        run(["go", "mod", "tidy"], cwd=directory)
        run(["go", "build", "-o", "program", "."], cwd=directory)
        return [str(directory / "program")]

    return prepare


def java_driver(program: str, *artifacts: str) -> Prepare:
    """Copy artifacts of Maven Central."""

    def prepare(room: Path, directory: Path) -> list[str]:
        copy = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"
        options = f"-Dmaven.repo.local={directory / 'repository'}", f"-DoutputDirectory={directory}"
        for artifact in artifacts:
            run(
                ["mvn", "--quiet", "--batch-mode", copy, f"-Dartifact={artifact}", "-Dmdep.stripVersion=true", *options]
            )
        return ["java", "-cp", str(directory / "*"), str(room / program)]

    return prepare


DRIVERS = {
    "asyncpg": Driver("postgres", python_driver("asyncpg_client.py", "asyncpg==0.32.0"), ("uv",)),
    "psycopg": Driver("postgres", python_driver("psycopg_client.py", "psycopg[binary,pool]>=3.3,<4"), ("uv",)),
    "psycopg2": Driver("postgres", python_driver("psycopg2_client.py", "psycopg2-binary>=2.9,<3"), ("uv",)),
    "pg8000": Driver("postgres", python_driver("pg8000_client.py", "pg8000>=1.31,<2"), ("uv",)),
    "sqlalchemy": Driver(
        "postgres", python_driver("sqlalchemy_client.py", "sqlalchemy[asyncio]>=2,<3", "asyncpg==0.32.0"), ("uv",)
    ),
    "node-postgres": Driver("postgres", node_driver("node_postgres_client.cjs", "pg@8"), ("node", "npm")),
    "pgx": Driver("postgres", go_driver("pgx", "github.com/jackc/pgx/v5@v5.7.5"), ("go",)),
    "jdbc": Driver(
        "postgres",
        java_driver(
            "Jdbc.java",
            "org.postgresql:postgresql:42.7.7",
            "com.zaxxer:HikariCP:6.3.0",
            "org.slf4j:slf4j-api:2.0.17",
        ),
        ("mvn", "java"),
    ),
    "redis-py-7": Driver("redis", python_driver("redis_py_client.py", "redis>=7,<8"), ("uv",)),
    "redis-py-8": Driver("redis", python_driver("redis_py_client.py", "redis>=8,<9"), ("uv",)),
    "hiredis": Driver("redis", python_driver("redis_py_client.py", "redis>=8,<9", "hiredis>=3"), ("uv",)),
    "node-redis": Driver("redis", node_driver("node_redis_client.cjs", "redis@5"), ("node", "npm")),
    "ioredis": Driver("redis", node_driver("ioredis_client.cjs", "ioredis@5"), ("node", "npm")),
    "go-redis": Driver("redis", go_driver("goredis", "github.com/redis/go-redis/v9@v9.14.0"), ("go",)),
}


def run(command: list[str], *, cwd: Path | None = None, environ: Mapping[str, str] = os.environ) -> None:
    """Run a command to its end.

    Raises:
        subprocess.CalledProcessError: it failed.
        subprocess.TimeoutExpired: it took too long.
    """
    subprocess.run(command, check=True, cwd=cwd, env=environ, timeout=WITHIN)
