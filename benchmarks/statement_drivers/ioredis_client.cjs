// Play scenarios by ioredis with its defaults and a time-out: node ioredis_client.cjs URL
const Redis = require("ioredis");
const { TIMEOUT, attempt, serve } = require("./answers.cjs");

async function transaction(client) {
  for (const [error] of await client.multi().set("acts:a", 1).incr("acts:b").exec()) {
    if (error) throw Object.assign(error, { message: `an element of the result: ${error.message}` });
  }
}

serve("ioredis", async (scenario) => {
  const client = new Redis(process.argv[2], { commandTimeout: TIMEOUT, connectTimeout: TIMEOUT });
  client.on("error", () => {});
  const scenarios = {
    set: () => client.set("acts:a", 1),
    get: () => client.get("acts:text"),
    multi: () => transaction(client),
    connect: () => client.ping(),
  };
  if (scenario !== "connect") await client.ping();
  const answer = { raised: await attempt(scenarios[scenario]), next: await attempt(() => client.ping()) };
  client.disconnect();
  return answer;
});
