"""Use Postgres by psycopg2: python psycopg2_client.py URL."""

import contextlib
import io
import sys
import threading

import psycopg2
import psycopg2.extensions


def queries(cursor: psycopg2.extensions.cursor) -> None:
    cursor.execute("DROP TABLE IF EXISTS story_psycopg2; CREATE TABLE story_psycopg2 (id int PRIMARY KEY, name text)")
    for number in range(4):
        cursor.execute("INSERT INTO story_psycopg2 VALUES (%s, %s)", (number, f"name {number}"))
    cursor.execute("SELECT n, repeat('x', 40) FROM generate_series(1, 300) AS n")
    assert len(cursor.fetchall()) == 300
    cursor.execute("SELECT repeat('x', 20000)")
    cursor.execute("SELECT 1; SELECT 2")
    cursor.executemany("INSERT INTO story_psycopg2 VALUES (%s, %s)", [(n, None) for n in range(10, 20)])
    cursor.execute("DO $$ BEGIN RAISE NOTICE 'a notice'; END $$")


def transactions(connection: psycopg2.extensions.connection) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE story_psycopg2 SET name = 'committed' WHERE id = 1")
    with contextlib.suppress(psycopg2.errors.UniqueViolation), connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO story_psycopg2 VALUES (1, 'twice')")
    with connection, connection.cursor() as cursor:
        with contextlib.suppress(psycopg2.errors.DivisionByZero):
            cursor.execute("SELECT 1 / 0")
        with contextlib.suppress(psycopg2.errors.InFailedSqlTransaction):
            cursor.execute("SELECT 1")
    with connection, connection.cursor(name="story") as cursor:
        cursor.itersize = 50
        cursor.execute("SELECT n FROM generate_series(1, 120) AS n")
        assert len(list(cursor)) == 120


def others(connection: psycopg2.extensions.connection) -> None:
    with connection, connection.cursor() as cursor:
        lines = "".join(f"{number}\tcopied\n" for number in range(100, 160))
        cursor.copy_expert("COPY story_psycopg2 FROM STDIN", io.StringIO(lines))
        cursor.copy_expert("COPY story_psycopg2 TO STDOUT", io.StringIO())
    with contextlib.suppress(psycopg2.Error), connection, connection.cursor() as cursor:
        cursor.copy_expert("COPY story_psycopg2 FROM STDIN", io.StringIO("1\ttwice\n"))
    threading.Timer(0.2, connection.cancel).start()
    with contextlib.suppress(psycopg2.errors.QueryCanceled), connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(10)")


client = psycopg2.connect(sys.argv[1])
with client, client.cursor() as statements:
    queries(statements)
transactions(client)
others(client)
client.close()
with contextlib.suppress(psycopg2.OperationalError):
    psycopg2.connect(sys.argv[1], dbname="missing")
