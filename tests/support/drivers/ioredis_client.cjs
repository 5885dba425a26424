// Use Redis by ioredis: node ioredis_client.cjs URL
const Redis = require("ioredis");

async function failing(promise) {
  try { await promise; } catch { return; }
  throw new Error("expected an error");
}

async function main(url) {
  const client = new Redis(url);
  await client.set("story:text", "value", "EX", 60);
  await client.set("story:bulk", "x".repeat(8000));
  await client.get("story:bulk");
  await client.hset("story:hash", { a: 1, b: 2 });
  await client.hgetall("story:hash");
  await client.pipeline().set("story:a", 1).incr("story:a").get("story:none").lpush("story:text", "wrong type").exec();
  await client.multi().incr("story:counter").lpush("story:text", "wrong type").get("story:counter").exec();
  await failing(client.multi().set("story:text").exec());
  client.defineCommand("story", { numberOfKeys: 1, lua: "return redis.call('GET', KEYS[1])" });
  await client.story("story:text");
  await client.story("story:text");
  const subscriber = new Redis(url);
  const heard = new Promise((resolve) => subscriber.once("message", resolve));
  await subscriber.subscribe("story");
  await client.publish("story", "payload");
  await heard;
  await subscriber.unsubscribe("story");
  await subscriber.quit();
  const waiting = client.duplicate();
  const popped = waiting.blpop("story:queue", 10);
  await client.rpush("story:queue", "job");
  await popped;
  await waiting.quit();
  const idle = client.duplicate();
  const monitor = await idle.monitor();
  const seen = new Promise((resolve) => monitor.once("monitor", resolve));
  await client.get("story:text");
  await seen;
  monitor.disconnect();
  idle.disconnect();
  await client.quit();
}

main(process.argv[2]).catch((error) => { console.error(error); process.exit(1); });
