"""Use Postgres by psycopg 3: python psycopg_client.py URL."""

import contextlib
import sys
import threading

import psycopg


def queries(connection: psycopg.Connection) -> None:
    connection.execute("DROP TABLE IF EXISTS story_psycopg; CREATE TABLE story_psycopg (id int PRIMARY KEY, name text)")
    for number in range(8):  # the driver prepares after the fifth
        connection.execute("INSERT INTO story_psycopg VALUES (%s, %s)", (number, f"name {number}"))
    connection.execute("SELECT name FROM story_psycopg WHERE id = %s", (2,), prepare=True).fetchone()
    assert len(connection.execute("SELECT n, repeat('x', 40) FROM generate_series(1, 300) AS n").fetchall()) == 300
    connection.execute("SELECT repeat('x', 20000)").fetchone()
    connection.execute("SELECT 1; SELECT 2; SELECT 3")
    connection.execute("")
    connection.execute("SELECT %s::int", (1,), binary=True).fetchone()
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO story_psycopg VALUES (%s, %s)", [(n, None) for n in range(10, 20)])


def transactions(connection: psycopg.Connection) -> None:
    with connection.transaction():
        connection.execute("UPDATE story_psycopg SET name = 'committed' WHERE id = %s", (1,))
        with contextlib.suppress(psycopg.errors.UniqueViolation), connection.transaction():
            connection.execute("INSERT INTO story_psycopg VALUES (1, 'twice')")
        with connection.cursor(name="story") as cursor:
            cursor.itersize = 50
            assert len(list(cursor.execute("SELECT n FROM generate_series(1, 120) AS n"))) == 120
    with contextlib.suppress(psycopg.errors.InFailedSqlTransaction), connection.transaction():
        with contextlib.suppress(psycopg.errors.DivisionByZero):
            connection.execute("SELECT 1 / %s", (0,))
        connection.execute("SELECT 1")
    with contextlib.suppress(psycopg.errors.SyntaxError):
        connection.execute("SELEC 1")


def pipelines(connection: psycopg.Connection) -> None:
    with connection.pipeline() as pipeline:
        for number in range(30, 36):
            connection.execute("INSERT INTO story_psycopg VALUES (%s, %s)", (number, "in a pipeline"))
        pipeline.sync()
        cursor = connection.execute("SELECT count(*) FROM story_psycopg")
        assert cursor.fetchone() is not None
    with contextlib.suppress(psycopg.Error), connection.pipeline() as pipeline:
        connection.execute("INSERT INTO story_psycopg VALUES (30, 'twice')")
        connection.execute("SELECT 1")
        pipeline.sync()
        connection.execute("SELECT 2")


def others(connection: psycopg.Connection) -> None:
    with connection.cursor() as cursor:
        with cursor.copy("COPY story_psycopg FROM STDIN") as copy:
            for number in range(100, 160):
                copy.write_row((number, "copied"))
        with cursor.copy("COPY story_psycopg TO STDOUT") as copy:
            assert len(list(copy.rows())) > 60
        with contextlib.suppress(psycopg.Error), cursor.copy("COPY story_psycopg FROM STDIN") as copy:
            copy.write("1\ttwice\n")
            raise psycopg.DataError("ended by the client")
    connection.execute("LISTEN story")
    connection.execute("NOTIFY story, 'payload'")
    list(connection.notifies(timeout=10, stop_after=1))
    threading.Timer(0.2, connection.cancel).start()
    with contextlib.suppress(psycopg.errors.QueryCanceled):
        connection.execute("SELECT pg_sleep(10)")


with psycopg.connect(sys.argv[1], autocommit=True) as client:
    queries(client)
    transactions(client)
    pipelines(client)
    others(client)
with psycopg.connect(sys.argv[1]) as client:  # BEGIN comes with the first statement
    client.execute("SELECT %s::text", ("in a transaction",))
with contextlib.suppress(psycopg.OperationalError):
    psycopg.connect(sys.argv[1], dbname="missing")
with psycopg.connect(sys.argv[1], autocommit=True) as client:
    client.execute("SELECT 1")
