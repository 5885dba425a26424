"""Use Postgres by pg8000: python pg8000_client.py URL."""

import contextlib
import io
import sys
import urllib.parse

import pg8000.dbapi
import pg8000.native

PARTS = urllib.parse.urlsplit(sys.argv[1])
ARGUMENTS = {
    "user": PARTS.username or "",
    "password": urllib.parse.unquote(PARTS.password or ""),
    "host": PARTS.hostname,
    "port": PARTS.port,
    "database": PARTS.path.lstrip("/"),
}


def native() -> None:
    with pg8000.native.Connection(**ARGUMENTS) as connection:
        connection.run("DROP TABLE IF EXISTS story_pg8000")
        connection.run("CREATE TABLE story_pg8000 (id int PRIMARY KEY, name text)")
        for number in range(4):
            connection.run("INSERT INTO story_pg8000 VALUES (:id, :name)", id=number, name=f"name {number}")
        statement = connection.prepare("SELECT name FROM story_pg8000 WHERE id = :id")
        for number in range(3):
            statement.run(id=number)
        statement.close()
        assert len(connection.run("SELECT n, repeat('x', 40) FROM generate_series(1, 300) AS n") or ()) == 300
        connection.run("SELECT repeat('x', 20000)")
        connection.run("COPY story_pg8000 FROM STDIN", stream=io.StringIO("100\tcopied\n101\tcopied\n"))
        connection.run("COPY story_pg8000 TO STDOUT", stream=io.BytesIO())
        connection.run("LISTEN story")
        connection.run("NOTIFY story, 'payload'")
        connection.run("SELECT 1")


def dbapi() -> None:
    connection = pg8000.dbapi.connect(**ARGUMENTS)
    cursor = connection.cursor()
    cursor.execute("UPDATE story_pg8000 SET name = 'committed' WHERE id = %s", (1,))
    connection.commit()
    with contextlib.suppress(pg8000.dbapi.DatabaseError):
        cursor.execute("INSERT INTO story_pg8000 VALUES (%s, %s)", (1, "twice"))
    with contextlib.suppress(pg8000.dbapi.DatabaseError):
        cursor.execute("SELECT 1")
    connection.rollback()
    cursor.executemany("INSERT INTO story_pg8000 VALUES (%s, %s)", [(n, None) for n in range(10, 15)])
    connection.rollback()
    connection.close()
    with contextlib.suppress(pg8000.dbapi.DatabaseError):
        pg8000.dbapi.connect(**{**ARGUMENTS, "database": "missing"})


native()
dbapi()
