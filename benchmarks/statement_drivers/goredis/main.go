// Play scenarios by go-redis with its defaults and a time-out: goredis URL
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

type description struct {
	Kind string `json:"kind"`
	Code string `json:"code"`
	Text string `json:"text"`
}

const module = "github.com/redis/go-redis/v9"

var ctx = context.Background()

// kindOf returns the type of an error, without the wrappers of the standard library.
func kindOf(err error) string {
	kind := fmt.Sprintf("%T", err)
	if strings.HasPrefix(kind, "*fmt.") || strings.HasPrefix(kind, "*errors.") {
		return "error"
	}
	return kind
}

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

func version() map[string]string {
	build, _ := debug.ReadBuildInfo()
	for _, each := range build.Deps {
		if each.Path == module {
			return map[string]string{"version": module + " " + each.Version}
		}
	}
	panic("not built with the module")
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var result any = version()
		if lines.Text() != "version" {
			result = play(lines.Text())
		}
		answer, err := json.Marshal(result)
		if err != nil {
			panic(err)
		}
		fmt.Println(string(answer))
	}
}
