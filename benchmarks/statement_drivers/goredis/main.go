// Play scenarios by go-redis with its defaults and a time-out: goredis URL
package main

import (
	"context"
	"os"
	"time"

	"github.com/redis/go-redis/v9"
)

const module = "github.com/redis/go-redis/v9"

var ctx = context.Background()

func describe(err error) *description {
	if err == nil {
		return nil
	}
	return &description{kindOf(err), "", err.Error()}
}

func transaction(client *redis.Client) error {
	_, err := client.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.Set(ctx, "acts:a", 1, 0)
		pipe.Incr(ctx, "acts:b")
		return nil
	})
	return err
}

func play(scenario string) map[string]*description {
	options, err := redis.ParseURL(os.Args[1])
	if err != nil {
		panic(err)
	}
	options.DialTimeout, options.ReadTimeout = time.Second, time.Second
	client := redis.NewClient(options)
	defer client.Close()
	ping := func() error { return client.Ping(ctx).Err() }
	if scenario != "connect" {
		if err := ping(); err != nil {
			panic(err)
		}
	}
	scenarios := map[string]func() error{
		"set":     func() error { return client.Set(ctx, "acts:a", 1, 0).Err() },
		"get":     func() error { return client.Get(ctx, "acts:text").Err() },
		"multi":   func() error { return transaction(client) },
		"connect": ping,
	}
	raised := describe(scenarios[scenario]())
	return map[string]*description{"raised": raised, "next": describe(ping())}
}

func main() { serve(module, play) }
