// Play scenarios by node-redis with its defaults and a time-out: node node_redis_client.cjs URL
const { createClient } = require("redis");
const { TIMEOUT, attempt, serve } = require("./answers.cjs");

serve("redis", async (scenario) => {
  const client = createClient({ url: process.argv[2], socket: { connectTimeout: TIMEOUT, socketTimeout: TIMEOUT } });
  client.on("error", () => {});
  const scenarios = {
    set: () => client.set("acts:a", "1"),
    get: () => client.get("acts:text"),
    multi: () => client.multi().set("acts:a", "1").incr("acts:b").exec(),
    connect: async () => { await client.connect(); await client.ping(); },
  };
  if (scenario !== "connect") await scenarios.connect();
  const answer = { raised: await attempt(scenarios[scenario]), next: await attempt(() => client.ping()) };
  try { client.destroy(); } catch { /* it is closed */ }
  return answer;
});
