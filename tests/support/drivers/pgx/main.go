// Use Postgres by pgx: pgx URL
package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

var ctx = context.Background()

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func failing(err error) {
	if err == nil {
		panic("expected an error")
	}
}

func read(rows pgx.Rows, err error) {
	must(err)
	for rows.Next() {
	}
	must(rows.Err())
}

func execute(connection *pgx.Conn, sql string, arguments ...any) error {
	_, err := connection.Exec(ctx, sql, arguments...)
	return err
}

func queries(connection *pgx.Conn) {
	must(execute(connection, "DROP TABLE IF EXISTS story_pgx; CREATE TABLE story_pgx (id int PRIMARY KEY, name text)"))
	for id := 0; id < 4; id++ {
		must(execute(connection, "INSERT INTO story_pgx VALUES ($1, $2)", id, fmt.Sprint("name ", id)))
	}
	read(connection.Query(ctx, "SELECT n, repeat('x', 40) FROM generate_series(1, 300) AS n"))
	read(connection.Query(ctx, "SELECT repeat('x', 20000)"))
	batch := &pgx.Batch{}
	for id := 10; id < 16; id++ {
		batch.Queue("INSERT INTO story_pgx VALUES ($1, $2)", id, "in a batch")
	}
	must(connection.SendBatch(ctx, batch).Close())
	_, err := connection.CopyFrom(ctx, pgx.Identifier{"story_pgx"}, []string{"id", "name"},
		pgx.CopyFromRows([][]any{{100, "copied"}, {101, "copied"}}))
	must(err)
}

func transactions(connection *pgx.Conn) {
	transaction, err := connection.Begin(ctx)
	must(err)
	must(execute(connection, "UPDATE story_pgx SET name = 'committed' WHERE id = $1", 1))
	must(transaction.Commit(ctx))
	transaction, err = connection.Begin(ctx)
	must(err)
	failing(execute(connection, "INSERT INTO story_pgx VALUES ($1, $2)", 1, "twice"))
	failing(execute(connection, "SELECT 1"))
	must(transaction.Rollback(ctx))
	must(execute(connection, "LISTEN story"))
	must(execute(connection, "NOTIFY story, 'payload'"))
	_, err = connection.WaitForNotification(ctx)
	must(err)
	read(connection.Query(ctx, "SELECT $1::int", pgx.QueryExecModeSimpleProtocol, 1))
	read(connection.Query(ctx, "SELECT $1::int", pgx.QueryExecModeExec, 1))
	read(connection.Query(ctx, "SELECT $1::int", pgx.QueryExecModeCacheDescribe, 1))
	must(connection.DeallocateAll(ctx))
}

func main() {
	connection, err := pgx.Connect(ctx, os.Args[1])
	must(err)
	queries(connection)
	transactions(connection)
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	_, err = connection.Exec(short, "SELECT pg_sleep(10)")
	failing(err)
	cancel()
	_ = connection.Close(ctx)
	_, err = pgx.Connect(ctx, os.Args[1][:strings.LastIndex(os.Args[1], "/")]+"/missing")
	failing(err)
}
