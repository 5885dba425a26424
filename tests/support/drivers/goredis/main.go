// Use Redis by go-redis, with RESP2 and RESP3: goredis URL
package main

import (
	"context"
	"os"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

var ctx = context.Background()

func must(err error) {
	if err != nil && err != redis.Nil {
		panic(err)
	}
}

func failing(err error) {
	if err == nil {
		panic("expected an error")
	}
}

func story(url string, protocol int) {
	options, err := redis.ParseURL(url)
	must(err)
	options.Protocol = protocol
	client := redis.NewClient(options)
	must(client.Set(ctx, "story:text", "value", time.Minute).Err())
	must(client.Set(ctx, "story:bulk", strings.Repeat("x", 8000), 0).Err())
	must(client.Get(ctx, "story:bulk").Err())
	must(client.Get(ctx, "story:none").Err())
	must(client.HSet(ctx, "story:hash", "a", 1, "b", 2).Err())
	must(client.HGetAll(ctx, "story:hash").Err())
	must(client.ZAdd(ctx, "story:scores", redis.Z{Score: 1.5, Member: "a"}).Err())
	must(client.ZRangeWithScores(ctx, "story:scores", 0, -1).Err())
	failing(client.LPush(ctx, "story:text", "wrong type").Err())
	_, err = client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for n := 0; n < 6; n++ {
			pipe.Incr(ctx, "story:counter")
		}
		return nil
	})
	must(err)
	_, err = client.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.Incr(ctx, "story:counter")
		pipe.Get(ctx, "story:counter")
		return nil
	})
	must(err)
	script := redis.NewScript("return {1, redis.call('GET', KEYS[1]), {2, 'three'}}")
	must(script.Run(ctx, client, []string{"story:text"}).Err())
	must(script.Run(ctx, client, []string{"story:text"}).Err())
	subscriber := client.Subscribe(ctx, "story")
	_, err = subscriber.Receive(ctx)
	must(err)
	must(client.Publish(ctx, "story", "payload").Err())
	_, err = subscriber.ReceiveMessage(ctx)
	must(err)
	must(subscriber.Close())
	must(client.RPush(ctx, "story:queue", "job").Err())
	must(client.BLPop(ctx, time.Second, "story:queue").Err())
	must(client.Close())
}

func main() {
	story(os.Args[1], 2)
	story(os.Args[1], 3)
}
