// Use Redis by node-redis, with RESP2 and RESP3: node node_redis_client.cjs URL
const { createClient } = require("redis");

async function failing(promise) {
  try { await promise; } catch { return; }
  throw new Error("expected an error");
}

async function story(url, RESP) {
  const client = createClient({ url, RESP });
  client.on("error", () => {});
  await client.connect();
  await client.set("story:text", "value", { EX: 60 });
  await client.set("story:bulk", "x".repeat(8000));
  await client.get("story:bulk");
  await client.get("story:none");
  await client.hSet("story:hash", { a: "1", b: "2" });
  await client.hGetAll("story:hash");
  await client.zAdd("story:scores", [{ score: 1.5, value: "a" }, { score: 2, value: "b" }]);
  await client.zRangeWithScores("story:scores", 0, -1);
  await Promise.all([1, 2, 3, 4, 5].map((n) => client.set(`story:${n}`, String(n))));
  await client.multi().incr("story:counter").get("story:counter").exec();
  await failing(client.lPush("story:text", "wrong type"));
  await client.multi().set("story:a", "1").lPush("story:text", "wrong type").execAsPipeline().catch(() => {});
  await client.eval("return {1, redis.call('GET', KEYS[1]), {2, 'three'}}", { keys: ["story:text"], arguments: [] });
  const subscriber = client.duplicate();
  await subscriber.connect();
  let message;
  const heard = new Promise((resolve) => { message = resolve; });
  await subscriber.subscribe("story", message);
  await client.publish("story", "payload");
  await heard;
  await subscriber.unsubscribe("story");
  await subscriber.close();
  for await (const _ of client.scanIterator({ MATCH: "story:*", COUNT: 5 })) { /* read all */ }
  await client.close();
}

async function main(url) {
  await story(url, 2);
  await story(url, 3);
}

main(process.argv[2]).catch((error) => { console.error(error); process.exit(1); });
