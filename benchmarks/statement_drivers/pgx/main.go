// Play scenarios by pgx and pgxpool: pgx URL
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	module  = "github.com/jackc/pgx/v5"
	timeout = time.Second // of the context of each call
	insert  = "INSERT INTO acts VALUES (1)"
	read    = "SELECT n FROM generate_series(1, 5) AS n"
	next    = "SELECT 1"
)

func describe(err error) *description {
	if err == nil {
		return nil
	}
	var server *pgconn.PgError
	if errors.As(err, &server) {
		return &description{fmt.Sprintf("%T", server), server.Code, err.Error()}
	}
	return &description{kindOf(err), "", err.Error()}
}

func within(call func(ctx context.Context) error) *description {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return describe(call(ctx))
}

func connect(ctx context.Context) error {
	connection, err := pgx.Connect(ctx, os.Args[1])
	if err == nil {
		err = connection.Close(ctx)
	}
	return err
}

func query(connection *pgxpool.Conn, sql string) *description {
	return within(func(ctx context.Context) error {
		rows, err := connection.Query(ctx, sql)
		if err != nil {
			return err
		}
		for rows.Next() {
		}
		return rows.Err()
	})
}

func transaction(connection *pgxpool.Conn, commit bool) map[string]*description {
	begun, err := connection.Begin(context.Background())
	if err != nil {
		panic(err)
	}
	raised := query(connection, insert)
	if commit {
		raised = within(begun.Commit)
	}
	after := query(connection, next)
	if !commit && raised == nil {
		_ = begun.Commit(context.Background())
	} else if !commit {
		within(begun.Rollback)
	}
	return map[string]*description{"raised": raised, "next": after}
}

func play(scenario string) map[string]*description {
	if scenario == "connect" {
		return map[string]*description{"raised": within(connect), "checkout": within(connect)}
	}
	config, err := pgxpool.ParseConfig(os.Args[1])
	if err != nil {
		panic(err)
	}
	config.MaxConns = 1
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		panic(err)
	}
	defer pool.Close()
	connection, err := pool.Acquire(context.Background())
	if err != nil {
		panic(err)
	}
	var answer map[string]*description
	switch scenario {
	case "alone":
		answer = map[string]*description{"raised": query(connection, insert), "next": query(connection, next)}
	case "read":
		answer = map[string]*description{"raised": query(connection, read), "next": query(connection, next)}
	default:
		answer = transaction(connection, scenario == "commit")
	}
	connection.Release()
	answer["checkout"] = within(func(ctx context.Context) error {
		_, err := pool.Exec(ctx, next)
		return err
	})
	return answer
}

func main() { serve(module, play) }
